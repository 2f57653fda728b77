"""Prediction of images by a saved or exported model, in batches, with bounded memory."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hf_tl.errors import ConfigError, DataError, name_some
from hf_tl.predicting.classifiers import AbstainingClassifier, ImageClassifier, open_abstaining, open_classifier
from hf_tl.predicting.inputs import NamedImage, collect_images
from hf_tl.predicting.result import Prediction, PredictionResult, TableFormat
from hf_tl.processes.cores import cpu_cores
from hf_tl.ranges import COUNT, SHARE, check_argument
from hf_tl.reporting.console import logger, progress_bar

if TYPE_CHECKING:
    from hf_tl.evaluation.holdout.classifier import AnyModel

TOP_K, BATCH_SIZE = 5, 8
THREADS = 4
"""Largest number of images to decode at once. A photo of 12 megapixels takes 48 MB, or twice that if it is rotated."""
_LOCK = threading.Lock()


def predict(
    model: "AnyModel",
    images: Any,
    *,
    top_k: int | None = None,
    threshold: float | None = None,
    abstain: bool = False,
    prediction_sets: bool = False,
    batch_size: int = BATCH_SIZE,
) -> PredictionResult:
    """Classify images, in batches, on a GPU where there is one.

    Args:
        model: Folder of a saved model, Hub id, folder or file of an exported model, `RunResult`, or a model of
            `load_backbone` or `load`, which stays on its device.
        images: Path, PIL image, array, `datasets.Dataset` or a column of it, or a sequence of paths, PIL images and
            arrays. A path is a
            file, a folder (all images in it, at any depth), a pattern (`photos/**/*.jpg`), or `@FILE`: a text file with
            a path on each line. Arrays are uint8 of the shape (height, width) or (height, width, 3 or 4).
        top_k: Largest number of classes for each image (default: 5; with `threshold` all).
        threshold: Smallest probability of a class, for multi-label models (default: no limit).
        abstain: Whether to give no class to images unlike the training images, by the threshold of
            `hf_tl.calibrate`, and to return the out-of-distribution score of all.
        prediction_sets: Whether to give all classes that an image may have, with the coverage of `hf_tl.calibrate`.
        batch_size: Number of images per step.

    Returns:
        One prediction for each image, in order. An image that cannot be read has an `error` in place of classes.

    Raises:
        DataError: There are no images, or none can be read.
        ModelError: There is no such model.
        ConfigError: `threshold` is given for a model with one class per image, the runtime of an exported model is
            not installed, or the model was not calibrated to abstain.

    >>> import numpy as np, hf_tl
    >>> model, _ = hf_tl.load_backbone("timm:test_resnet", ["cat", "dog"], pretrained=False)
    >>> result = predict(model, [np.zeros((20, 30, 3), np.uint8)])
    >>> len(result), sorted(result[0].labels), result[0].error
    (1, ['cat', 'dog'], None)
    """
    predictor = Predictor.load(
        model,
        top_k=top_k,
        threshold=threshold,
        abstain=abstain,
        prediction_sets=prediction_sets,
        batch_size=batch_size,
    )
    collected = collect_images(images)
    predictions: list[Prediction] = []
    with progress_bar(total=len(collected), desc="Predicting", unit="image") as progress:
        for batch in predictor.batches(collected):
            predictions += batch
            progress.update(len(batch))
    result = PredictionResult(tuple(predictions), predictor.table)
    if bad := result.unreadable:
        check_any_readable(len(bad), len(result), str(bad[0].error))
        logger.warning("%s", describe_unreadable(len(bad), len(result)) + f": {name_some(each.image for each in bad)}")
    return result


def check_any_readable(unreadable: int, images: int, error: str) -> None:
    """Check that at least one image could be read.

    Raises:
        DataError: None could; the message holds the first error.
    """
    if unreadable == images:
        raise DataError(error if images == 1 else f"none of {images:,} images can be read; the first: {error}")


def describe_unreadable(unreadable: int, images: int) -> str:
    """Say how many images could not be read."""
    return f"{unreadable:,} of {images:,} images cannot be read"


@dataclass(frozen=True)
class Predictor:
    """Model with its transform, and what to return of its predictions."""

    classifier: ImageClassifier
    top_k: int
    threshold: float | None
    batch_size: int
    judge: AbstainingClassifier | None = None
    """The classifier, if the model is calibrated and abstention or prediction sets are asked for."""
    abstain: bool = False
    prediction_sets: bool = False

    @classmethod
    def load(
        cls,
        model: "AnyModel",
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        abstain: bool = False,
        prediction_sets: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> "Predictor":
        """Load the model; the arguments are those of `predict`."""
        for name, value, domain in (
            ("top_k", top_k, COUNT), ("threshold", threshold, SHARE), ("batch_size", batch_size, COUNT)
        ):  # fmt: skip
            check_argument(name, value, domain)
        classifier: ImageClassifier
        judge = None
        if abstain or prediction_sets:
            classifier = judge = open_abstaining(model)
        else:
            classifier = open_classifier(model)
        classes = len(classifier.labels)
        if threshold is not None and not classifier.is_multi_label:
            raise ConfigError(
                "--threshold is for multi-label models, and this model gives each image one class: leave it out"
            )
        limit = top_k or (TOP_K if threshold is None and not prediction_sets else classes)
        return cls(
            classifier,
            min(limit, classes),
            threshold,
            batch_size,
            judge,
            abstain,
            prediction_sets,
        )

    @property
    def identity(self) -> str:
        """Everything that predictions depend on, beside the images and the columns."""
        limits = None if self.judge is None else self.judge.limits.to_json()
        settings = [self.top_k, self.threshold, self.abstain, self.prediction_sets, limits, Image.MAX_IMAGE_PIXELS]
        return f"{self.classifier.identity} {settings}"

    @property
    def table(self) -> TableFormat:
        """Columns of a table of the predictions."""
        is_ranked = self.threshold is None and not self.prediction_sets
        return TableFormat(self.top_k if is_ranked else None, has_scores=self.abstain)

    def batches(self, images: Iterable[NamedImage]) -> Iterator[list[Prediction]]:
        """Predict images in order; each list holds at most `batch_size` readable images."""
        names: list[str] = []
        pixels: list[Any] = []
        for name, values in read_ahead(images, self.classifier, self.batch_size):
            names.append(name)
            pixels.append(values)
            if sum(not isinstance(each, DataError) for each in pixels) == self.batch_size:
                yield self._predict(names, pixels)
                names, pixels = [], []
        if names:
            yield self._predict(names, pixels)

    def _predict(self, names: Sequence[str], pixels: Sequence[Any]) -> list[Prediction]:
        readable = [values for values in pixels if not isinstance(values, DataError)]
        read = [name for name, values in zip(names, pixels, strict=True) if not isinstance(values, DataError)]
        predicted = iter(self._classify(read, readable) if readable else ())
        return [
            Prediction(name, error=str(values)) if isinstance(values, DataError) else next(predicted)
            for name, values in zip(names, pixels, strict=True)
        ]

    def _classify(self, names: Sequence[str], pixels: Sequence[Any]) -> Iterator[Prediction]:
        scores: Sequence[float | None] = [None] * len(pixels)
        if self.abstain and self.judge is not None:
            probabilities, measured = self.judge.judge(pixels)
            scores, is_foreign = measured.tolist(), ~self.judge.limits.accepts(measured)
        else:
            probabilities, is_foreign = self.classifier.probabilities(pixels), np.zeros(len(pixels), bool)
        is_offered = probabilities >= (self.threshold or 0)
        if self.prediction_sets and self.judge is not None:
            is_offered = self.judge.limits.sets(probabilities)
        for place, name in enumerate(names):
            values = probabilities[place]
            ranked = () if is_foreign[place] else np.argsort(-values, kind="stable")[: self.top_k]
            kept = [index for index in ranked if is_offered[place, index]]
            yield Prediction(
                name,
                tuple(self.classifier.labels[index] for index in kept),
                tuple(float(values[index]) for index in kept),
                ood_score=scores[place],
                abstained=bool(is_foreign[place]),
            )


def read_ahead(images: Iterable[NamedImage], classifier: ImageClassifier, ahead: int) -> Iterator[tuple[str, Any]]:
    """Decode and transform images in threads, in order, at most `ahead` of them before they are needed.

    Only as many images as there are threads are in memory at full size.

    Yields:
        Name of each image, and its pixels (channels, height, width), or the reason why it cannot be read.
    """
    threads = min(THREADS, cpu_cores())
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[str, Future[Any]]] = deque()
        for image in images:
            waiting.append((image.name, pool.submit(_read, image, classifier)))
            if len(waiting) > ahead + threads:
                name, future = waiting.popleft()
                yield name, future.result()
        while waiting:
            name, future = waiting.popleft()
            yield name, future.result()


def _read(image: NamedImage, classifier: ImageClassifier) -> Any:
    # Pillow's images are not safe in several threads, and the same image may be given twice
    is_shared = isinstance(image.stored, Image.Image)
    try:
        with _LOCK if is_shared else contextlib.nullcontext():
            return classifier.pixels(image.stored, image.name)
    except DataError as error:
        return error
