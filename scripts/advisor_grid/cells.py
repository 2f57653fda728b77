"""Cells of the grid: dataset, number of images, variant, seed and runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from advisor_grid.backbones import BACKBONES
from advisor_grid.sources import DATA, load_source
from advisor_grid.variants import ALL_SIZES, GROUP, PLAIN, VARIANTS, Variant
from hf_tl.advisor.measuring.sample import stratified_order
from hf_tl.config import StrategyConfig
from hf_tl.data.columns import LABEL
from hf_tl.data.datasets import ImageData, load_data

SEEDS = dict(zip(ALL_SIZES, (3, 3, 2, 2), strict=True))
"""Number of seeds, by images per class; the last key is a total number of images."""
VARIANT_SEEDS = 2
"""Number of seeds of a variant; controls have one."""
IN_ALL = ALL_SIZES[-1]
STRATEGIES = {
    "transfer": StrategyConfig(strategy="transfer"),
    "finetune 1": StrategyConfig(strategy="finetune", trainable_stages=2),
    "finetune 3": StrategyConfig(strategy="finetune", trainable_stages=4),
    "full": StrategyConfig(strategy="full"),
    "lora": StrategyConfig(strategy="lora", lora_rank=16),
    "scratch": StrategyConfig(strategy="scratch"),
}
SHARE = {
    "transfer": 0.1,
    "finetune 1": 0.5,
    "finetune 3": 0.7,
    "full": 1.0,
    "lora": 1.3,
    "scratch": 1.0,
    "recommend": 3.0,
    "trials": 60.0,
    "auto": 40.0,
    "cost": 200.0,
}
"""Duration relative to that of `full`, as measured."""


@dataclass(frozen=True)
class Files:
    """Files of this machine."""

    folder: Path | None = None
    """Folder or zip archive of the photos."""
    vit: Path | None = None
    """Checkpoint folder of the ViT."""


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
    """Dataset of a given size in a variant, drawn with a seed."""

    data: str
    size: int
    """Images per class, or `IN_ALL`."""
    seed: int = 0
    variant: str = PLAIN
    """Name of the variant."""
    files: Files = Files()

    @property
    def name(self) -> str:
        """Return the name of the cell in the results.

        >>> Cell("trash", 5, 1).name, Cell("trash", 5, variant="shift").name
        ('5 a class, seed 1', '5 a class, seed 0, shift')
        """
        drawn = f"{self.size} {'in all' if self.size == IN_ALL else 'a class'}, seed {self.seed}"
        return drawn if self.variant == PLAIN else f"{drawn}, {self.variant}"

    @property
    def change(self) -> Variant:
        """Return the variant."""
        return VARIANTS[self.variant]

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return DATA[self.data].classes

    @property
    def images_in_all(self) -> int:
        """Return the number of training and validation images, as far as the dataset has them."""
        drawn = self.size if self.size == IN_ALL else self.classes * self.size
        return round(drawn * self.change.growth)

    def tasks(self, work: str) -> Iterator[Task]:
        """Yield the runs of the cell."""
        images = self.images_in_all
        if self.change.is_control and work != "recommend":
            return
        if work != "train":
            if work != "cost" or (self.seed, self.variant) == (0, PLAIN):
                yield Task(f"{self.name}, {work}", "", work, images * SHARE[work])
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

    def images(self) -> ImageData:
        """Draw the cell's images from the training split, and split off the validation images as in any run."""
        splits = load_source(self.data, self.files.folder)
        train, test = self.change.apply(self._draw(splits["train"]), splits["test"])
        groups: dict[str, Any] = {"group_column": GROUP} if GROUP in train.column_names else {}
        return load_data(DatasetDict(train=train, test=test), dataset_name=self.data, seed=self.seed, **groups)

    def _draw(self, train: Dataset) -> Dataset:
        """Draw the images from the training split: so many of each class, or in proportion."""
        labels = np.array(train[LABEL][:])
        order = stratified_order(labels, self.seed)
        if self.size == IN_ALL:
            rows = order[: self.size]
        else:
            rows = np.concatenate([order[labels[order] == label][: self.size] for label in np.unique(labels)])
        return train.select(np.sort(rows), keep_in_memory=True)


def cells(data: str, files: Files = Files()) -> Iterator[Cell]:
    """Yield the cells of a dataset."""
    for variant, change in VARIANTS.items():
        for size in change.sizes:
            seeds = 1 if change.is_control else SEEDS[size] if variant == PLAIN else min(SEEDS[size], VARIANT_SEEDS)
            yield from (Cell(data, size, seed, variant, files) for seed in range(seeds))
