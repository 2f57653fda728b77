"""Peer 3: LightlyTrain's `train_image_classification` on a timm network (https://docs.lightly.ai/train).

Batches of 16, one loader worker per core and its augmentation are its defaults, and so is its precision,
bfloat16. A head is trained by `backbone_freeze`. It starts from random weights, because it
downloads its own, so only its speed can be compared. It runs in an environment of its own, without hf_tl.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightly_train  # type: ignore[import-not-found]
from torch.utils.data import DataLoader

BATCH_SIZE = 16


def main() -> None:
    """Train; the images of `validation` are evaluated once, at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--dataset", type=Path, required=True, help="image folder with train and validation")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--layers", choices=("head", "full"), required=True, help="layers to train")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--image_size", type=int, required=True)
    options = parser.parse_args()
    about = json.loads((options.model / "about.json").read_text(encoding="utf-8"))
    splits = {split: options.dataset / folder for split, folder in (("train", "train"), ("val", "validation"))}
    images = sum(1 for path in splits["train"].rglob("*") if path.is_file())
    began = iteration_starts()
    lightly_train.train_image_classification(
        out=options.output_dir,
        overwrite=True,
        data={**splits, "classes": dict(enumerate(sorted(path.name for path in splits["train"].iterdir())))},
        model=f"timm/{about['architecture']}",
        steps=options.epochs * math.ceil(images / BATCH_SIZE),
        batch_size=BATCH_SIZE,
        accelerator="cpu",
        model_args={"backbone_freeze": options.layers == "head"},
        transform_args={"image_size": (options.image_size, options.image_size)},
    )
    # one epoch: the first loader that starts is that of the training, the second that of the evaluation
    result = {"training_began": began[0], "epochs_trained": [began[1]], "epochs_ended": [time.time()]}
    (options.output_dir / "result.json").write_text(json.dumps(result), encoding="utf-8")


def iteration_starts() -> list[float]:
    """Return a list to which every data loader appends the time when an iteration over it starts."""
    starts: list[float] = []
    iterate = DataLoader.__iter__

    def marked(loader: DataLoader[Any]) -> Iterator[Any]:
        starts.append(time.time())
        return iterate(loader)

    DataLoader.__iter__ = marked  # type: ignore[method-assign,assignment]
    return starts


if __name__ == "__main__":
    main()
