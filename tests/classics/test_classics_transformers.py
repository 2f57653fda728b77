"""The classics inside transformers' timm wrapper."""

import shutil
import subprocess
import sys
from pathlib import Path

import timm
import torch
from timm.models._hub import save_for_hf
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

import hf_tl.classics

ROOT = Path(hf_tl.classics.__file__).parents[2]
LABELS = {0: "cat", 1: "dog", 2: "axolotl"}
RELOAD = """
import sys, torch, hf_tl.classics
from transformers import AutoModelForImageClassification
for folder in sys.argv[1:]:
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "axolotl"}, model.config.id2label
    images, logits = torch.load(f"{folder}/logits.pt")
    with torch.no_grad():
        assert torch.equal(model(images).logits, logits), folder
"""


def wrapped(architecture: str, **model_args: object) -> TimmWrapperForImageClassification:
    config = TimmWrapperConfig(architecture=architecture, id2label=LABELS, model_args=model_args or None)
    return TimmWrapperForImageClassification(config).eval()


def test_saved_models_reload_in_a_fresh_process(tmp_path: Path) -> None:
    folders = [tmp_path / architecture for architecture in ("alexnet", "zfnet", "googlenet", "inception_v1")]
    torch.manual_seed(0)
    for folder in folders:
        model = wrapped(folder.name)
        images = torch.randn(2, 3, 96, 96)
        model.save_pretrained(folder)
        with torch.no_grad():
            torch.save((images, model(images).logits), folder / "logits.pt")
    process = subprocess.run([sys.executable, "-c", RELOAD, *folders], cwd=ROOT, capture_output=True, text=True)
    shutil.rmtree(tmp_path)  # pytest would keep half a gigabyte
    assert process.returncode == 0, process.stderr


def test_hidden_states_and_gradient_checkpointing_are_supported() -> None:
    model = wrapped("googlenet", in_chans=1)
    outputs = model(torch.randn(1, 1, 64, 64), output_hidden_states=True)
    assert [state.shape[1] for state in outputs.hidden_states] == [192, 480, 832, 1024]
    assert model.supports_gradient_checkpointing


def test_zfnet_loads_local_weights_through_timm(tmp_path: Path) -> None:
    model = timm.create_model("zfnet", num_classes=3).eval()
    save_for_hf(model, tmp_path, safe_serialization=True)
    reloaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    (tmp_path / "model.safetensors").unlink()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(reloaded(images), model(images))
