"""`hf-tl predict`: predictions of files, printed or written while they are made."""

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hf_tl.errors import ConfigError, IncompleteError
from hf_tl.predicting.inputs import NamedImage, collect_images, open_dataset
from hf_tl.predicting.parts import Parts, share_of
from hf_tl.predicting.predict import BATCH_SIZE, Predictor, Returned, check_any_readable, describe_unreadable
from hf_tl.predicting.result import Prediction, TableFormat
from hf_tl.predicting.table import open_table, writer_of
from hf_tl.reporting.console import logger, progress_bar, say


def predict_named(
    model: str,
    images: Sequence[str] = (),
    *,
    dataset: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    streaming: bool = False,
    output: str | None = None,
    batch_size: int = BATCH_SIZE,
    **returned: Any,
) -> None:
    """Print the classes of images, or write them to a table; name the unreadable images on the way.

    Args:
        model: As in `hf_tl.predict`.
        images: Paths, as in `hf_tl.predict`.
        dataset: Name of a dataset in place of paths, as `hf_tl.predicting.inputs.open_dataset` takes it.
        split: As in `open_dataset`.
        image_column: As in `open_dataset`.
        dataset_config: As in `open_dataset`.
        dataset_revision: As in `open_dataset`.
        streaming: As in `open_dataset`.
        output: Table to write instead of printing.
        batch_size: As in `hf_tl.predict`.
        returned: Fields of `Returned`.

    Raises:
        IncompleteError: Some of the images could not be read; the others were predicted.
        DataError: There are no images, or none can be read.
        ConfigError: Flags do not fit together.
    """
    wanted = Returned(**returned)
    reading: dict[str, Any] = {
        "split": split,
        "image_column": image_column,
        "dataset_config": dataset_config,
        "dataset_revision": dataset_revision,
        "streaming": streaming,
    }
    _check_flags(images, dataset, reading, output, wanted)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and output is None:
        raise ConfigError("several processes need an --output to write to together: name a table")
    with _failing_together(processes):
        if processes > 1:
            _join_processes()  # before the model takes a device
        collected = collect_images(list(images)) if dataset is None else open_dataset(dataset, **reading)
        predictor = Predictor.load(model, wanted, batch_size)
        if output is None:
            _print_all(predictor, collected)
        else:
            _write_all(predictor, collected, Path(output), processes)


def _failing_together(processes: int) -> contextlib.AbstractContextManager[None]:
    if processes == 1:
        return contextlib.nullcontext()
    from hf_tl.processes.failure import failing_together  # imports torch

    return failing_together()


def _check_flags(
    images: Sequence[str], dataset: str | None, reading: Mapping[str, Any], output: str | None, wanted: Returned
) -> None:
    """Check flags before anything is loaded.

    Raises:
        ConfigError: They do not fit together.
    """
    if not images and dataset is None:
        raise ConfigError("PATH... missing; write hf-tl predict MODEL PATH... [flags], or name a --dataset")
    if images and dataset is not None:
        raise ConfigError("expected paths of images or --dataset, found both: leave one out")
    if dataset is None and (without := [f"--{name}" for name, value in reading.items() if value not in (None, False)]):
        raise ConfigError(f"{', '.join(without)} needs --dataset, found paths of images: leave it out")
    if output is not None:
        writer_of(Path(output))
    elif wanted.embeddings:
        raise ConfigError("--embeddings are written to a table: name one with --output, for example FILE.parquet")


def _print_all(predictor: Predictor, collected: Sequence[NamedImage]) -> None:
    errors: list[str] = []
    # on a terminal, the printed classes show the progress
    hides_bar = sys.stdout.isatty()
    with progress_bar(total=len(collected), desc="Predicting", unit="image", disable=hides_bar) as progress:
        for batch in predictor.batches(collected):
            errors += _warn(batch, len(collected))
            _print(batch)
            progress.update(len(batch))
    _check_all_read(errors, len(collected))


def _write_all(predictor: Predictor, collected: Sequence[NamedImage], output: Path, processes: int) -> None:
    """Write a table in parts, each by one of the processes; parts of an interrupted command are kept."""
    process = int(os.environ["RANK"]) if processes > 1 else 0
    if process > 0:
        _join_processes()  # the first opens the folder before
    parts = Parts.open(output, predictor.table, collected, predictor.identity, process=process)
    if process == 0:
        if done := parts.done:
            say(None, f"Continuing {output}: {done:,} of {len(collected):,} images are predicted")
        if processes > 1:
            _join_processes()
    missing = parts.missing()
    if processes > 1:
        _join_processes()  # all know what is missing before any writes
    runs = list(share_of(missing, process, processes))
    total = sum(len(part) for run in runs for part in run)
    with progress_bar(total=total, desc="Predicting", unit="image", disable=process > 0) as progress:
        for run in runs:
            images = iter(collected[run[0].start : run[-1].stop])  # a stream is read once
            for part in run:
                predictions: list[Prediction] = []
                for batch in predictor.batches(islice(images, len(part))):
                    _warn(batch, len(collected))
                    predictions += batch
                    progress.update(len(batch))
                parts.write(part, predictions)
    if processes > 1:
        _join_processes()
    if process == 0:
        _join(parts, output, predictor.table)


def _join(parts: Parts, output: Path, table: TableFormat) -> None:
    """Write the table from its parts."""
    errors: list[str] = []
    with open_table(output, table) as write:
        for rows in parts.read():
            errors += [row["error"] for row in rows if row["error"] is not None]
            write(rows)
        if errors:
            check_any_readable(len(errors), parts.images, errors[0])
    parts.remove()
    say(None, f"Predicted {parts.images - len(errors):,} images: {output}")
    _check_all_read(errors, parts.images)


def _join_processes() -> None:
    """Wait for the other processes; the first time, each takes its device."""
    from accelerate import PartialState

    from hf_tl.processes.accelerator import available_device

    PartialState(cpu=available_device() is None).wait_for_everyone()


def _warn(batch: Sequence[Prediction], images: int) -> list[str]:
    """Name the unreadable images of a batch, and return their errors."""
    errors = [prediction.error for prediction in batch if prediction.error is not None]
    for error in errors if images > 1 else ():
        logger.warning("%s", error)
    return errors


def _check_all_read(errors: Sequence[str], images: int) -> None:
    if errors:
        check_any_readable(len(errors), images, errors[0])
        raise IncompleteError(describe_unreadable(len(errors), images) + "; the others were predicted")


def _print(predictions: Iterable[Prediction]) -> None:
    for prediction in predictions:
        if prediction.error is None:
            print(prediction.image)  # noqa: T201
            if prediction.abstained:
                print(f"  no class: unlike the training images (score {prediction.ood_score:.3f})")  # noqa: T201
            for label, probability in prediction.ranking:
                print(f"  {probability:7.2%}  {label}")  # noqa: T201
