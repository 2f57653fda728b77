"""Mutated models: settings, preprocessing and weights that other people wrote are used or refused by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones.checkpoints import save_timm, save_transformers, save_weights, timm_network, tiny_vit
from fuzzing.mutations import mutate_json, mutate_safetensors
from fuzzing.reading import fuzz
from PIL import Image

import hf_tl
from hf_tl.backbones.weights.local_file import load_weights, read_weights
from hf_tl.backbones.weights.saved_model import weights_digest

KINDS = ("vit", "timm")
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_transformers(tiny_vit(), root / "vit")
    save_timm(timm_network("test_vit"), root / "timm")
    return root


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / request.param, tmp_path / "model"))


def load(folder: Path) -> None:
    model, transforms = hf_tl.load(folder)
    size = transforms.preprocessing.input_size
    with torch.no_grad():
        logits = model(pixel_values=torch.zeros(1, *size)).logits
    assert logits.shape == (1, model.config.num_labels)


def test_mutated_configs_are_used_or_refused(model: Path, part: int) -> None:
    fuzz(model / "config.json", mutate_json, lambda: load(model), part, names=str(model))


@pytest.mark.parametrize("model", ["vit"], indirect=True)
def test_mutated_preprocessing_is_used_or_refused(model: Path, part: int) -> None:
    def read() -> None:
        _, transforms = hf_tl.load(model)
        assert transforms.eval(IMAGE).shape == transforms.preprocessing.input_size
        assert transforms.preprocessing.to_record()

    fuzz(model / "preprocessor_config.json", mutate_json, read, part, names=str(model))


def test_mutated_weights_of_a_model_are_used_or_refused(model: Path, part: int) -> None:
    def read() -> None:
        weights_digest(model)
        load(model)

    fuzz(model / "model.safetensors", mutate_safetensors, read, part, names=str(model))


def test_mutated_weights_files_are_used_or_refused(tmp_path: Path, part: int) -> None:
    network = timm_network("test_resnet")
    file = save_weights(network, tmp_path / "weights.safetensors")
    head = frozenset({"fc.weight", "fc.bias"})

    def read() -> None:
        tensors = read_weights(file)
        load_weights(network, file, head)
        for name, tensor in network.state_dict().items():
            if name not in head:
                torch.testing.assert_close(tensor, tensors[name].to(tensor.dtype), rtol=0, atol=0, equal_nan=True)

    fuzz(file, mutate_safetensors, read, part)
