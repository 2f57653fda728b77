"""Likely mistakes in Python: each is one line that says what to write, before anything is trained, without flags."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from job.small_data import LABELS, QUICK, backbone, make_dataset, write_folder
from transformers import ViTConfig, ViTModel

import hf_tl
from hf_tl import Phase, Strategy

NAME = "timm:test_resnet"
load = partial(hf_tl.load_backbone, NAME, pretrained=False)
train: Callable[..., Any] = hf_tl.train


def model() -> Any:
    return backbone()[0]


def images() -> Dataset:
    return make_dataset(8)


def opened() -> Any:
    return hf_tl.load_data(str(write_folder(images(), Path("images"))))


def headless() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTModel(ViTConfig(**sizes, image_size=32))


def texts() -> Dataset:
    return Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})


CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "a number as strategy": (lambda: train(model(), images(), 5), 'write "finetune" or hf_tl.Strategy.finetune()'),
    "a misspelt strategy": (lambda: train(model(), images(), "finetun"), "did you mean finetune?"),
    "a phase as strategy": (lambda: train(model(), images(), Phase(1, 1)), "put the phase into a list: [phase]"),
    "no phases": (lambda: train(model(), images(), []), "expected a strategy as a name"),
    "a phase as phases": (lambda: Strategy("mine", Phase(1, 1)), "write [phase, …]"),  # type: ignore[arg-type]
    "a rate as text": (lambda: train(model(), images(), "full", learning_rate="high"), "learning_rate takes a number"),
    "a rate of a strategy as text": (lambda: Strategy.full(learning_rate="high"), "found 'high'"),  # type: ignore[arg-type]
    "no epochs": (lambda: train(model(), images(), "full", epochs=0), "epochs takes a number above 0 or none, found 0"),
    "no epochs of a strategy": (lambda: Strategy.full(epochs=0), "epochs takes a number above 0"),
    "epochs twice": (lambda: train(model(), images(), epochs=1, num_train_epochs=2), "leave one out"),
    "half an image": (lambda: train(model(), images(), batch_size=2.5), "takes an integer of at least 1, found 2.5"),
    "a switch as text": (lambda: train(model(), images(), overwrite_output_dir="yes"), "overwrite_output_dir takes"),
    "a misspelt setting": (lambda: train(model(), images(), learnign_rate=1), "did you mean learning_rate?"),
    "a misspelt argument": (lambda: Strategy.full(epoch=3), "did you mean epochs?"),
    "no stages": (lambda: Strategy.finetune(trainable_stages=0), "trainable_stages must be at least 2, found 0"),
    "the head alone": (lambda: train(model(), images(), "finetune", trainable_stages=1), 'choose strategy="transfer"'),
    "too many stages": (lambda: train(model(), images(), "finetune", trainable_stages=9), "expected 1 to 6 trainable"),
    "stages of full": (lambda: train(model(), images(), "full", trainable_stages=2), "leave out trainable_stages"),
    "stages of a strategy full": (lambda: Strategy.full(trainable_stages=2), "has no argument trainable_stages"),
    "a name for gradual": (lambda: Strategy.gradual(trainable_stages="layer3"), "must be a number"),  # type: ignore[arg-type]
    "a number for auto": (lambda: Strategy.auto(trainable_stages=3), 'such as (2, 4, "all")'),  # type: ignore[arg-type]
    "settings of a strategy": (lambda: train(model(), images(), Strategy.full(), epochs=3), "put it into the strategy"),
    "settings of a model": (lambda: train(model(), images(), image_size=64), "pass it to hf_tl.load_backbone"),
    "labels as a number": (lambda: load(6), "expected labels as a list of strings, found 6"),
    "labels as text": (lambda: load("cat"), "expected labels as a list of strings, found 'cat'"),
    "an image size as text": (lambda: load(LABELS, image_size="big"), "image_size takes an integer"),
    "a seed as text": (lambda: load(LABELS, seed="now"), "seed takes an integer"),
    "a number as backbone": (lambda: hf_tl.load_backbone(5, LABELS), "write a Hub id, a folder or timm:ARCH"),  # type: ignore[arg-type]
    "no such backbone": (lambda: train("timm:resnett50", images()), "did you mean resnet50"),
    "arguments swapped": (lambda: train(images(), model()), "write hf_tl.train(model, dataset, strategy)"),
    "transforms as dataset": (lambda: train(model(), backbone()[1]), "expected the dataset as the second argument"),
    "a dataset as transforms": (lambda: train(model(), images(), transforms=images()), "leave transforms out"),
    "model and transforms": (lambda: train(backbone(), images()), "pass the first of the two"),
    "a network of torch": (lambda: train(torch.nn.Linear(2, 2), images()), "found a Linear"),
    "a network without a head": (lambda: train(headless(), images()), "load it with a head"),
    "labels in another order": (lambda: train(load(LABELS[::-1])[0], images()), "pass the labels of the dataset"),
    "a number to load_data": (lambda: hf_tl.load_data(7), "expected a dataset (a name"),  # type: ignore[arg-type]
    "data read twice": (lambda: hf_tl.load_data(opened(), label_column="label"), "pass label_column to load_data"),
    "data split twice": (lambda: train(model(), opened(), test_fraction=0.3), "pass test_fraction to load_data"),
    "a list as dataset": (lambda: train(model(), [1, 2]), "found a list"),
    "a dataset of texts": (lambda: train(model(), texts()), "name it with image_column"),
    "a dataset without rows": (lambda: train(model(), images().select([])), "is empty"),
    "no train": (lambda: train(model(), DatasetDict(a=images(), b=images())), "expected a split train"),
    "nothing to resume": (lambda: train(model(), images(), resume_from_checkpoint="auto"), "add output_dir"),
    "auto without weights": (lambda: train(NAME, images(), "auto", pretrained=False), "leave out pretrained=False"),
    "an odd batch": (lambda: train(model(), images(), "full", mixup=0.2, batch_size=5), "must be even, found 5"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_says_in_one_line_what_to_write(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, advice = CALLS[name]
    with pytest.raises(hf_tl.HfTlError) as caught:
        call()
    message = str(caught.value)
    assert advice in message
    assert "--" not in message
    assert "\n" not in message
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_cell_that_runs_again_says_how_to_replace_the_run(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**QUICK, "output_dir": str(tmp_path / "out"), "epochs": 2, "learning_rate": 0.03}

    def cell(**more: Any) -> hf_tl.RunResult:
        network, transforms = hf_tl.load_backbone(NAME, LABELS, "full", pretrained=False, image_size=32)
        return hf_tl.train(network, make_dataset(), "full", transforms=transforms, **settings, **more)

    first = cell()
    with pytest.raises(hf_tl.HfTlError, match=r"holds another run .*, or replace it with overwrite_output_dir=True$"):
        cell()
    again = cell(overwrite_output_dir=True)
    assert again.record.weights_digest == first.record.weights_digest
    assert again.record.measured["test"].metrics == first.record.measured["test"].metrics
    assert again.record.origin.kind == "random"
