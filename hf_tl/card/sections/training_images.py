"""Statements of a card about the training images of the weights, including those of the starting model."""

from hf_tl.record import RunRecord
from hf_tl.reporting.numbers import counted


def learned_rows(record: RunRecord) -> list[dict[str, str | None]]:
    """Return the dataset, split, number of images and digest of each training split."""
    return [
        {
            "data": learned.data,
            "split": learned.split,
            "images": counted(learned.images, "image") if learned.images else "number of images not recorded",
            "digest": learned.digest,
        }
        for learned in record.learned_from
    ]


def learned_total(record: RunRecord) -> str:
    """Return the number of training images, in words.

    A chain of trainings may use the same images more than once.
    """
    counts = [learned.images for learned in record.learned_from]
    if not all(counts):
        return "an unknown number of images"
    return f"{'up to ' if has_earlier_training(record) else ''}{counted(sum(counts), 'image')}"


def has_earlier_training(record: RunRecord) -> bool:
    """Return whether the starting weights come from another training that hf_tl recorded, or a teacher taught them."""
    return record.teacher is not None or record.start.kind == "trained" or record.start.earlier is not None
