"""What a trained model learned from, written beside it.

TO BE REPLACED by the real path: `hf_tl.train` writes `learned_from` and its digests when it saves.
"""

from dataclasses import replace
from pathlib import Path

from hf_tl.data.datasets import ImageData
from hf_tl.data.learned import learn
from hf_tl.record import LearnedFrom, read_record, write_record


def state_learned(
    folder: Path, data: ImageData, splits: tuple[str, ...] = ("train",), earlier: LearnedFrom | None = None
) -> LearnedFrom:
    """State that the model in `folder` was trained on splits of `data`, from weights that learned from `earlier`."""
    learned = earlier or LearnedFrom()
    for split in splits:
        learned = learn(learned, data, split)
    write_record(replace(read_record(folder), data=data.to_record(), learned_from=learned.splits), folder)
    learned.save(folder)
    return learned
