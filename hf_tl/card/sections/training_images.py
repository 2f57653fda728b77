"""Statements of a card about the training images of the weights, including those of the starting model."""

from hf_tl.record import RunRecord


def learned_rows(record: RunRecord) -> list[dict[str, str | None]]:
    """Return the dataset, split, number of images and digest of each training split."""
    return [
        {
            "data": learned.data,
            "split": learned.split,
            "images": f"{learned.images:,} images" if learned.images else "number of images not recorded",
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
        return "images of which not all are recorded"
    is_chain = record.start.kind == "trained" or record.start.earlier is not None
    return f"{'up to ' if is_chain else ''}{sum(counts):,} images"
