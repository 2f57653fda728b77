"""`hf-tl predict`: predictions of files, printed or written while they are made."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hf_tl.errors import IncompleteError
from hf_tl.predicting.inputs import collect_images
from hf_tl.predicting.predict import BATCH_SIZE, Predictor, check_any_readable, describe_unreadable
from hf_tl.predicting.result import Prediction
from hf_tl.predicting.table import open_table, writer_of
from hf_tl.reporting.console import logger, progress_bar, say


def predict_paths(
    model: str,
    images: Sequence[str],
    *,
    output: str | None = None,
    top_k: int | None = None,
    threshold: float | None = None,
    abstain: bool = False,
    prediction_sets: bool = False,
    batch_size: int = BATCH_SIZE,
) -> None:
    """Print the classes of images, or write them to a table; name the unreadable images on the way.

    Args:
        model: As in `hf_tl.predict`.
        images: Paths, as in `hf_tl.predict`.
        output: Table to write instead of printing.
        top_k: As in `hf_tl.predict`.
        threshold: As in `hf_tl.predict`.
        abstain: As in `hf_tl.predict`.
        prediction_sets: As in `hf_tl.predict`.
        batch_size: As in `hf_tl.predict`.

    Raises:
        IncompleteError: Some of the images could not be read; the others were predicted.
        DataError: There are no images, or none can be read.
    """
    if output is not None:
        writer_of(Path(output))  # fail before anything is loaded
    collected = collect_images(list(images))
    predictor = Predictor.load(
        model,
        top_k=top_k,
        threshold=threshold,
        abstain=abstain,
        prediction_sets=prediction_sets,
        batch_size=batch_size,
    )
    errors: list[str] = []
    with contextlib.ExitStack() as stack:
        show: Callable[[Iterable[Prediction]], None] = _print
        if output is not None:
            show = stack.enter_context(open_table(output, predictor.table))
        # on a terminal, the printed classes show the progress
        hides_bar = output is None and sys.stdout.isatty()
        bar = progress_bar(total=len(collected), desc="Predicting", unit="image", disable=hides_bar)
        progress = stack.enter_context(bar)
        for batch in predictor.batches(collected):
            bad = [prediction.error for prediction in batch if prediction.error is not None]
            for error in bad if len(collected) > 1 else ():
                logger.warning("%s", error)
            errors += bad
            show(batch)
            progress.update(len(batch))
        if errors:
            check_any_readable(len(errors), len(collected), errors[0])
    if output is not None:
        say(None, f"Predicted {len(collected) - len(errors):,} images: {output}")
    if errors:
        raise IncompleteError(describe_unreadable(len(errors), len(collected)) + "; the others were predicted")


def _print(predictions: Iterable[Prediction]) -> None:
    for prediction in predictions:
        if prediction.error is None:
            print(prediction.image)  # noqa: T201
            if prediction.abstained:
                print(f"  no class: unlike the training images (score {prediction.ood_score:.3f})")  # noqa: T201
            for label, probability in prediction.ranking:
                print(f"  {probability:7.2%}  {label}")  # noqa: T201
