"""Check of all images before training: each is decoded once, and unreadable ones are named or left out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_tl.data.decoding.conversions import examine
from hf_tl.data.encoding import require_classes
from hf_tl.data.image_data import ImageData, class_counts_of
from hf_tl.data.index.outcomes import examine_images
from hf_tl.data.splits import note_overlaps
from hf_tl.data.streaming.streams import leave_out, streams_of
from hf_tl.errors import DataError, name_some
from hf_tl.reporting.console import progress_bar


def check_images(
    data: ImageData, *, skip_bad_images: bool = False, verbose: bool = False, just_loaded: bool = False
) -> ImageData:
    """Decode every image once (JPEGs at an eighth of their size), so that none fails in the middle of training.

    Images that a plain `pipeline()` would convert differently are counted and noted.

    Streamed images are checked in a separate pass, and only if unreadable images are to be skipped. Otherwise the pass
    that caches features, which also precedes training, reports them.

    Args:
        data: Result of `load_data`.
        skip_bad_images: Whether to leave out unreadable images, with a note, instead of raising an error.
        verbose: Whether to show a progress bar.
        just_loaded: Whether `load_data` has returned the data a moment ago; otherwise files that have changed since are
            looked for.

    Returns:
        Data without the unreadable images.

    Raises:
        DataError: Images are unreadable (at most five are named), or not enough remain.
    """
    if streams_of(data.splits):
        if not skip_bad_images:
            return data
        readable, more = leave_out(data.splits, _bad_image, verbose)
        return _without_bad_images(replace(data, splits=readable, notes=(*data.notes, *more))) if more else data
    notes, errors, kept, conversions = [], [], {}, {}
    images = sum(map(len, data.splits.values()))
    with progress_bar(total=images, desc="Checking images", disable=not verbose) as progress:
        outcomes = examine_images(data, progress, just_loaded=just_loaded)
    for split, rows in data.splits.items():
        if bad := outcomes[split].unreadable:
            errors += [image.error for image in bad.values()]
            kept[split] = [row for row in range(len(rows)) if row not in bad]
            names = name_some(Path(image.name).name for image in bad.values())
            notes.append(f"{len(bad)} images of {split} that cannot be read were left out: {names}")
        conversions[split] = outcomes[split].gather()
        notes += conversions[split].notes(split, len(rows))
    data = replace(data, conversions=conversions)
    if not errors:
        return replace(data, notes=(*data.notes, *notes))
    if not skip_bad_images:
        lines = [*errors[:5], *([f"and {len(errors) - 5} more"] if len(errors) > 5 else [])]
        advice = "replace or remove them, or leave them out with --skip_bad_images"
        raise DataError(f"{len(errors)} images cannot be used; {advice}:\n  " + "\n  ".join(lines))
    for split, good in kept.items():
        data = data.select(split, good)
    return _without_bad_images(replace(data, notes=(*data.notes, *notes)))


def _without_bad_images(data: ImageData) -> ImageData:
    for split, rows in data.splits.items():
        if not any(class_counts_of(rows, len(data.labels))):
            raise DataError(f"no image of the split {split} can be read, or none with a label; replace them")
    require_classes(data.splits["train"], data.labels)
    return note_overlaps(data)


def _bad_image(stored: Mapping[str, Any] | None, name: str) -> tuple[str, str] | None:
    try:
        examine(stored, name)
    except DataError as error:
        return name, str(error)
    return None
