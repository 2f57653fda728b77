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
from hf_tl.predicting.classifiers import ImageClassifier, open_classifier
from hf_tl.predicting.inputs import NamedImage, collect_images
from hf_tl.predicting.result import Prediction, PredictionResult, TableFormat
from hf_tl.processes.cores import cpu_cores
from hf_tl.ranges import COUNT, SHARE, check_argument
from hf_tl.reporting.console import logger, progress_bar

if TYPE_CHECKING:
    from hf_tl.abstention.limits import Limits
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
    embeddings: bool = False,
    batch_size: int = BATCH_SIZE,
) -> PredictionResult:
    """Classify images, in batches, on a GPU where there is one.

    Args:
        model: Folder of a saved model, Hub id, folder or file of an exported model, `RunResult`, or a model of
            `load_backbone` or `load`, which stays on its device.
        images: Path, PIL image, array, `datasets.Dataset` or a column of it, or a sequence of paths, PIL images and
            arrays. A path is a file, a folder (all images in it, at any depth), a pattern (`photos/**/*.jpg`), or
            `@FILE`: a text file with a path on each line. Arrays are uint8 of the shape (height, width) or
            (height, width, 3 or 4).
        top_k: Largest number of classes for each image (default: 5; with `threshold` all).
        threshold: Smallest probability of a class, for multi-label models (default: no limit).
        abstain: Whether to give no class to images unlike the training images, by the threshold of
            `hf_tl.calibrate`, and to return the out-of-distribution score of all.
        prediction_sets: Whether to give all classes that an image may have, with the coverage of `hf_tl.calibrate`.
        embeddings: Whether to return the embedding of each image: the input of the model's last layer.
        batch_size: Number of images per step.

    Returns:
        One prediction for each image, in order. An image that cannot be read has an `error` in place of classes.

    Raises:
        DataError: There are no images, or none can be read.
        ModelError: There is no such model.
        ConfigError: `threshold` is given for a model with one class per image, the runtime of an exported model is
            not installed, the model was not calibrated to abstain, or its file gives no embeddings.

    >>> import numpy as np, hf_tl
    >>> model, _ = hf_tl.load_backbone("timm:test_resnet", ["cat", "dog"], pretrained=False)
    >>> result = predict(model, [np.zeros((20, 30, 3), np.uint8)])
    >>> len(result), sorted(result[0].labels), result[0].error
    (1, ['cat', 'dog'], None)
    """
    returned = Returned(top_k, threshold, abstain, prediction_sets, embeddings)
    predictor = Predictor.load(model, returned, batch_size)
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
class Returned:
    """Contents of each prediction; the fields are arguments of `predict`."""

    top_k: int | None = None
    threshold: float | None = None
    abstain: bool = False
    prediction_sets: bool = False
    embeddings: bool = False

    def check(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: One is outside its range.
        """
        check_argument("top_k", self.top_k, COUNT)
        check_argument("threshold", self.threshold, SHARE)

    @property
    def needs_limits(self) -> bool:
        """Whether it depends on what was calibrated."""
        return self.abstain or self.prediction_sets

    @property
    def is_ranked(self) -> bool:
        """Whether a fixed number of classes is returned, the most probable ones."""
        return self.threshold is None and not self.prediction_sets


@dataclass(frozen=True)
class Predictor:
    """Model with its transform, and what to return of its predictions."""

    classifier: ImageClassifier
    returned: Returned
    batch_size: int

    @classmethod
    def load(cls, model: "AnyModel", returned: Returned | None = None, batch_size: int = BATCH_SIZE) -> "Predictor":
        """Load the model; the errors are those of `predict`."""
        returned = returned or Returned()
        returned.check()
        check_argument("batch_size", batch_size, COUNT)
        classifier = open_classifier(model, with_limits=returned.needs_limits, with_embeddings=returned.embeddings)
        if returned.threshold is not None and not classifier.is_multi_label:
            raise ConfigError(
                "--threshold is for multi-label models, and this model gives each image one class: leave it out"
            )
        return cls(classifier, returned, batch_size)

    @property
    def top_k(self) -> int:
        """Largest number of classes for each image."""
        classes = len(self.classifier.labels)
        return min(self.returned.top_k or (TOP_K if self.returned.is_ranked else classes), classes)

    @property
    def limits(self) -> "Limits":
        """Limits of a calibrated model."""
        assert self.classifier.limits is not None  # `open_classifier` has checked it
        return self.classifier.limits

    @property
    def identity(self) -> str:
        """Everything that predictions depend on, beside the images and the columns."""
        returned = self.returned
        limits = self.limits.to_json() if returned.needs_limits else None
        settings = [self.top_k, returned.threshold, returned.abstain, returned.prediction_sets, limits]
        return f"{self.classifier.identity} {[*settings, returned.embeddings, Image.MAX_IMAGE_PIXELS]}"

    @property
    def table(self) -> TableFormat:
        """Columns of a table of the predictions."""
        returned = self.returned
        ranks = self.top_k if returned.is_ranked else None
        return TableFormat(ranks, has_scores=returned.abstain, has_embeddings=returned.embeddings)

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
        outputs, returned = self.classifier.outputs(pixels), self.returned
        probabilities = outputs.probabilities
        scores = np.asarray(outputs.ood_scores) if returned.abstain else None
        is_foreign = np.zeros(len(pixels), bool) if scores is None else ~self.limits.accepts(scores)
        if returned.prediction_sets:
            is_offered = self.limits.sets(probabilities)
        else:
            is_offered = probabilities >= (returned.threshold or 0)
        for place, name in enumerate(names):
            values = probabilities[place]
            ranked = () if is_foreign[place] else np.argsort(-values, kind="stable")[: self.top_k]
            kept = [index for index in ranked if is_offered[place, index]]
            yield Prediction(
                name,
                tuple(self.classifier.labels[index] for index in kept),
                tuple(float(values[index]) for index in kept),
                ood_score=None if scores is None else float(scores[place]),
                abstained=bool(is_foreign[place]),
                embedding=None if outputs.embeddings is None else outputs.embeddings[place],
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
