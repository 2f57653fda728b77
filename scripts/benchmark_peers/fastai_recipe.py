"""Peer 2: fastai's `vision_learner` on a timm network, as in its quick start (https://docs.fast.ai/quick_start.html).

Batches of 64 and one loader worker per core are its defaults; `Resize` on each image is the quick start's transform. It
runs in an environment of its own, without hf_tl.

| `--layers` | calls |
|---|---|
| head | `freeze`, `fit_one_cycle(epochs)` |
| finetune | `fine_tune(epochs - 1)`: the head for an epoch, then all layers; the body is one group |
| full | `unfreeze`, `fit_one_cycle(epochs)` |
"""

import argparse
import json
import time
from pathlib import Path

from fastai.vision.all import (  # type: ignore[import-not-found]
    Callback,
    ImageDataLoaders,
    Learner,
    Resize,
    accuracy,
    get_image_files,
    set_seed,
    vision_learner,
)


class Marks(Callback):  # type: ignore[misc]
    """Callback that records the start of training, and the end of training and validation of each epoch."""

    training_began = 0.0

    def before_fit(self) -> None:
        """Record the end of start-up in the first call; `fine_tune` fits twice."""
        self.training_began = self.training_began or time.time()
        self.epochs_trained: list[float] = getattr(self, "epochs_trained", [])
        self.epochs_ended: list[float] = getattr(self, "epochs_ended", [])

    def after_train(self) -> None:
        """Record the end of training in an epoch."""
        self.epochs_trained.append(time.time())

    def after_epoch(self) -> None:
        """Record the end of validation in an epoch."""
        self.epochs_ended.append(time.time())


def main() -> None:
    """Train, evaluate on the test images and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--dataset", type=Path, required=True, help="image folder with train, validation and test")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--layers", choices=("head", "finetune", "full"), required=True, help="layers to train")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--image_size", type=int, required=True)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    set_seed(0)
    marks = Marks()
    learner = build_learner(options, marks)
    if options.layers == "head":
        learner.fit_one_cycle(options.epochs)
    elif options.layers == "finetune":
        learner.fine_tune(options.epochs - 1)
    else:
        learner.unfreeze()
        learner.fit_one_cycle(options.epochs)
    result = {
        "training_began": marks.training_began,
        "epochs_trained": list(marks.epochs_trained),
        "epochs_ended": list(marks.epochs_ended),
    }
    test = learner.dls.test_dl(get_image_files(options.dataset / "test"), with_labels=True)
    _, test_accuracy = learner.validate(dl=test)
    learner.save(options.output_dir.resolve() / "model")
    result["accuracy"] = test_accuracy
    (options.output_dir / "result.json").write_text(json.dumps(result), encoding="utf-8")


def build_learner(options: argparse.Namespace, marks: Marks) -> Learner:
    """Build the recipe's learner, with the same initial weights as the other commands."""
    about = json.loads((options.model / "about.json").read_text(encoding="utf-8"))
    images = ImageDataLoaders.from_folder(
        options.dataset, train="train", valid="validation", item_tfms=Resize(options.image_size)
    )
    weights = {"file": str(options.model / "model.safetensors"), "num_classes": about["classes"]}
    return vision_learner(images, about["architecture"], metrics=accuracy, cbs=[marks], pretrained_cfg_overlay=weights)


if __name__ == "__main__":
    main()
