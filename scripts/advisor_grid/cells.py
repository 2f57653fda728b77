"""Cells of the grid: dataset, number of images, seed and runs."""

import functools
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets

from hf_tl.advisor.measuring.sample import stratified_order
from hf_tl.config import StrategyConfig
from hf_tl.data.datasets import ImageData, load_data

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package dataset-fashion-mnist."""
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip
TEST = {"digits": 360, "fashion": 2_000, "clothes": 372}
"""Number of test images; those of Fashion-MNIST are the first of 10,000."""
DATA = {"digits": 64, "fashion": 64, "clothes": 96}
"""Height and width of the input in pixels, for images of 8, 28 and 160 pixels."""
SEEDS = {5: 3, 20: 3, 100: 2, 2_000: 2}
"""Number of seeds, by images per class; the last key is a total number of images."""
IN_ALL = 2_000
SHUFFLED = "labels shuffled"
"""Name of the control with shuffled labels, for which the advisor should answer that nothing can be learned."""
STRATEGIES = {
    "transfer": StrategyConfig(strategy="transfer"),
    "finetune 1": StrategyConfig(strategy="finetune", trainable_stages=2),
    "finetune 3": StrategyConfig(strategy="finetune", trainable_stages=4),
    "full": StrategyConfig(strategy="full"),
    "scratch": StrategyConfig(strategy="scratch"),
}
BACKBONES = {"lite0": 1.0, "lite1": 1.4, "random": 1.0}
"""Relative step time, as measured, of EfficientNet-Lite0 and -Lite1 with ImageNet weights, and -Lite0 with random
ones."""
SHARE = {
    "transfer": 0.1,
    "finetune 1": 0.5,
    "finetune 3": 0.7,
    "full": 1.0,
    "scratch": 1.0,
    "recommend": 3.0,
    "auto": 40.0,
    "cost": 200.0,
}
"""Duration relative to that of `full`, as measured."""


@dataclass(frozen=True)
class Task:
    """Run of the grid."""

    name: str
    """Name of its result."""
    backbone: str
    strategy: str
    passes: float
    """Estimated cost: number of images times epochs of `full` with the same duration."""


@dataclass(frozen=True)
class Cell:
    """Dataset of a given size, drawn with a seed."""

    data: str
    size: int
    """Images per class, or `IN_ALL`."""
    seed: int = 0
    folder: Path | None = None
    """Folder of the clothes."""

    @property
    def name(self) -> str:
        """Return the name of the cell in the results."""
        return f"{self.size} {'in all' if self.size == IN_ALL else 'a class'}, seed {self.seed}"

    def tasks(self, work: str) -> Iterator[Task]:
        """Yield the runs of the cell."""
        images = self.size if self.size == IN_ALL else 10 * self.size
        if work != "train":
            if work != "cost" or self.seed == 0:
                yield Task(f"{self.name}, {work}", "", work, images * SHARE[work])
            if work == "recommend" and self.seed == 0:
                yield Task(f"{self.name}, {SHUFFLED}", "", SHUFFLED, images * SHARE[work])
            return
        for backbone, factor in BACKBONES.items():
            for strategy, settings in STRATEGIES.items():
                if (backbone, strategy) != ("random", "scratch"):  # equal to scratch of lite0
                    epochs = sum(phase.epochs or 0 for phase in settings.build(1, images).phases)
                    passes = images * epochs * factor * SHARE[strategy]
                    yield Task(f"{self.name}, {backbone}, {strategy}", backbone, strategy, passes)

    def weight(self, task: Task) -> float:
        """Return the factor on a run's cost that postpones less important runs."""
        late = 1 if task.backbone in ("", "lite0") else 4
        return (1 + self.seed) * (4 if task.strategy == "scratch" else late)

    def images(self, *, shuffled: bool = False) -> ImageData:
        """Draw the cell's images from the training split, and split off the validation images as in any run.

        Args:
            shuffled: Whether to shuffle the labels.
        """
        splits = source(self.data, self.folder)
        train, labels = splits["train"], np.array(splits["train"]["label"][:])
        order = stratified_order(labels, self.seed)
        if self.size == IN_ALL:
            rows = order[: self.size]
        else:
            rows = np.concatenate([order[labels[order] == label][: self.size] for label in np.unique(labels)])
        chosen = train.select(np.sort(rows), keep_in_memory=True)
        if shuffled:
            mixed = np.random.default_rng(self.seed).permutation(chosen["label"][:]).tolist()
            column = Dataset.from_dict({"label": mixed}, features=Features(label=chosen.features["label"]))
            chosen = concatenate_datasets([chosen.remove_columns("label"), column], axis=1)
        return load_data(DatasetDict(train=chosen, test=splits["test"]), dataset_name=self.data, seed=self.seed)


def cells(data: str, folder: Path | None) -> Iterator[Cell]:
    """Yield the cells of a dataset."""
    yield from (Cell(data, size, seed, folder) for size, seeds in SEEDS.items() for seed in range(seeds))


@functools.cache
def source(data: str, folder: Path | None) -> DatasetDict:
    """Load all images of a dataset, as train and test.

    Raises:
        SystemExit: The images are missing.
    """
    if data == "fashion":
        if not FASHION.exists():
            raise SystemExit("the Fashion-MNIST images are in Debian's package dataset-fashion-mnist: install it")
        test = _fashion("t10k")
        return DatasetDict(train=_fashion("train"), test=test.select(range(TEST["fashion"])))
    if data == "clothes" and folder is None:
        raise SystemExit("the clothes need --folder (github.com/alexeygrigorev/clothing-dataset-small)")
    loaded = load_data("digits" if folder is None or data == "digits" else str(folder))
    splits = loaded.splits
    return DatasetDict(train=concatenate_datasets([splits["train"], splits["validation"]]), test=splits["test"])


def _fashion(name: str) -> Dataset:
    """Read the IDX files of a split (http://yann.lecun.com/exdb/mnist)."""
    content = [
        gzip.decompress((FASHION / f"{name}-{kind}-ubyte.gz").read_bytes()) for kind in ("images-idx3", "labels-idx1")
    ]
    pixels = np.frombuffer(content[0], np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer(content[1], np.uint8, offset=8)
    features = Features(image=Image(), label=ClassLabel(names=list(FASHION_CLASSES)))
    return Dataset.from_dict({"image": list(pixels), "label": labels.tolist()}, features=features)
