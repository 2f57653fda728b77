"""Preparation of the shared inputs: images in folders, and weights in a folder that every library loads.

`python prepare.py images|model|digits FOLDER [flags]`, in a process of its own: see `processes.measure`.
"""

import argparse
import io
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
from datasets import Image, concatenate_datasets

from hf_tl import list_stages, load_data
from hf_tl.backbones.candidates import candidates
from hf_tl.config import ModelConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

TRAINED_STAGES = {"head": 1, "finetune": 3}
"""Trailing stages, including the head."""


def main() -> None:
    """Prepare a model or images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("model", "images", "digits"))
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--dataset", default="digits", help="dataset to write (images), or to take the classes of the head from (model)"
    )
    parser.add_argument(
        "--model", help="timm:ARCH with random weights (model; default: the demo's backbone with its weights)"
    )
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--share", type=float, default=1, help="share of the training images (images; default: all)")
    parser.add_argument("--images", type=int, default=1_000, help="number of training images (digits)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    if options.what == "model":
        write_model(options.folder, options.model, options.dataset, options.image_size)
    elif options.what == "images":
        write_images(options.folder, options.dataset, options.share)
    else:
        write_digits(options.folder, options.images)


def write_model(folder: Path, name: str | None, dataset: str, image_size: int) -> None:
    """Save a backbone with a new head in timm's format, and the number of parameters that each strategy trains."""
    import torch

    torch.manual_seed(0)
    [backbone] = candidates(ModelConfig(name, image_size=image_size))
    data = load_data(dataset)
    model, _ = backbone.load(data.labels, pretrained=backbone.weights is not None)
    save_for_timm(model, folder)
    stages = list_stages(model)
    trained = {
        work: [name for stage in stages[-count:] for name in stage.parameter_names]
        for work, count in TRAINED_STAGES.items()
    }
    splits = {split: len(rows) for split, rows in data.splits.items()}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    about = {"architecture": model.config.architecture, "classes": len(data.labels), "images": splits, "gpu": gpu}
    (folder / "about.json").write_text(json.dumps({**about, "trained": trained}), encoding="utf-8")


def save_for_timm(model: "PreTrainedModel", folder: Path) -> None:
    """Write `config.json` and `model.safetensors` in timm's format for the Hub, which transformers loads, too."""
    from timm.models import save_for_hf

    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    settings = {"label_names": labels, "pretrained_cfg": dict(model.config.pretrained_cfg)}
    save_for_hf(model.timm_model, str(folder), model_config=settings, safe_serialization=True)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    del config["model_args"]  # num_classes is a key beside them, and transformers fails on a second one
    file.write_text(json.dumps(config), encoding="utf-8")


def write_images(folder: Path, dataset: str, share: float) -> None:
    """Write a dataset as an image folder with three splits, for all commands; files are copied unchanged."""
    data = load_data(dataset)
    if share < 1:  # the same share of each class
        train = data.splits["train"]
        data.splits["train"] = train.train_test_split(train_size=share, stratify_by_column="label", seed=0)["train"]
    for split, rows in data.splits.items():
        for number, row in enumerate(rows.cast_column("image", Image(decode=False))):
            path = folder / split / data.labels[row["label"]] / str(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            image = row["image"]
            if image["path"] is not None and Path(image["path"]).is_file():
                shutil.copyfile(image["path"], path.with_suffix(Path(image["path"]).suffix))
            else:
                PIL.Image.open(io.BytesIO(image["bytes"])).save(path.with_suffix(".png"))


def write_digits(folder: Path, images: int) -> None:
    """Write digits as parquet files: the training images repeated up to a number, the other splits unchanged."""
    for split, rows in load_data("digits").splits.items():
        wanted = images if split == "train" else len(rows)
        repeated: Dataset = concatenate_datasets([rows] * -(-wanted // len(rows)))
        repeated.select(range(wanted)).to_parquet(str(folder / f"{split}-0.parquet"))


if __name__ == "__main__":
    main()
