"""A failure after training keeps the model, and the message says how to continue."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones.checkpoints import save_transformers, tiny_vit
from job.small_data import LABELS, QUICK, backbone, make_dataset, make_tags
from transformers import AutoModelForImageClassification

import hf_tl
from hf_tl.errors import HfTlError, SaveError
from hf_tl.record import read_record
from hf_tl.strategy import Strategy

HEAD = Strategy.transfer(epochs=1)
CODE = """
from transformers import ViTForImageClassification

class OwnViT(ViTForImageClassification):
    pass
"""


def test_a_failure_after_training_leaves_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fail to write the card, as on a full disk: a file cannot replace a folder of its name."""
    folder = tmp_path / "out"
    (folder / "README.md" / "in the way").mkdir(parents=True)
    with pytest.raises((HfTlError, OSError)):
        hf_tl.train(backbone()[0], make_dataset(), HEAD, output_dir=str(folder), **QUICK)
    assert AutoModelForImageClassification.from_pretrained(folder).config.id2label == dict(enumerate(LABELS))
    assert read_record(folder).status in ("training", "trained")
    printed = capsys.readouterr().out
    assert 'resume_from_checkpoint="auto"' in printed
    assert f"hf-tl card {folder}" in printed


def test_measuring_is_resumed(tmp_path: Path) -> None:
    """The run ends like an uninterrupted one, without a training step."""
    settings = {**QUICK, "seed": 3}
    torch.manual_seed(0)
    whole = hf_tl.train(backbone()[0], make_dataset(), HEAD, output_dir=str(tmp_path / "whole"), **settings)
    torch.manual_seed(0)
    folder = tmp_path / "out"
    (folder / "README.md" / "in the way").mkdir(parents=True)
    with pytest.raises((HfTlError, OSError)):
        hf_tl.train(backbone()[0], make_dataset(), HEAD, output_dir=str(folder), **settings)
    (folder / "README.md" / "in the way").rmdir()
    (folder / "README.md").rmdir()
    before = (folder / "model.safetensors").read_bytes()
    torch.manual_seed(0)
    result = hf_tl.train(
        backbone()[0], make_dataset(), HEAD, output_dir=str(folder), resume_from_checkpoint="auto", **settings
    )
    assert result.record.status == "complete"
    assert (
        (folder / "model.safetensors").read_bytes() == before == (tmp_path / "whole" / "model.safetensors").read_bytes()
    )
    assert result.record.measured["test"].metrics == whole.record.measured["test"].metrics
    assert not (folder / "checkpoints").exists()


def test_the_card_of_a_model_that_was_not_measured(tmp_path: Path) -> None:
    from hf_tl.publish.save import rewrite_card

    folder = tmp_path / "out"
    (folder / "README.md" / "in the way").mkdir(parents=True)
    with pytest.raises((HfTlError, OSError)):
        hf_tl.train(backbone()[0], make_dataset(), HEAD, output_dir=str(folder), **QUICK)
    (folder / "README.md" / "in the way").rmdir()
    (folder / "README.md").rmdir()
    text = rewrite_card(folder).read_text(encoding="utf-8")
    assert "**Not evaluated.**" in text


@pytest.mark.parametrize("seed", range(12))
def test_small_multi_label_data_never_lose_a_model(tmp_path: Path, seed: int) -> None:
    model, _ = hf_tl.load_backbone("timm:test_resnet", ["a", "b", "c"], pretrained=False, image_size=32)
    result = hf_tl.train(model, make_tags(14, seed), HEAD, output_dir=str(tmp_path / "out"), **QUICK)
    assert result.record.status == "complete"
    json.loads((tmp_path / "out" / "run.json").read_text(), parse_constant=pytest.fail)


def test_a_model_with_code_of_its_own_is_loaded_again(tmp_path: Path) -> None:
    folder = save_transformers(tiny_vit(("dark", "light")), tmp_path / "own")
    (folder / "own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    own = {"auto_map": {"AutoModelForImageClassification": "own.OwnViT"}, "architectures": ["OwnViT"]}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    model, transforms = hf_tl.load_backbone(str(folder), LABELS, trust_remote_code=True)
    assert type(model).__name__ == "OwnViT"
    result = hf_tl.train(model, make_dataset(), HEAD, transforms=transforms, output_dir=str(tmp_path / "out"), **QUICK)
    assert result.record.status == "complete"


def test_a_model_that_reloads_with_other_logits_is_named_and_stays(tmp_path: Path) -> None:
    """A hook in memory changes the logits, and no file holds it."""
    model, _ = backbone()
    model.timm_model.register_forward_hook(lambda module, arguments, logits: 2 * logits)
    with pytest.raises(SaveError, match="gives other logits when transformers loads it"):
        hf_tl.train(model, make_dataset(), HEAD, output_dir=str(tmp_path / "out"), **QUICK)
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 2


def test_the_temperature_is_that_of_the_published_weights(tmp_path: Path) -> None:
    """After a refit on the validation images, no image remains to fit a temperature, and the record says so."""
    from dataclasses import replace

    noisy: Any = make_dataset(400, noise=160)
    strategy = Strategy.transfer(epochs=2)
    plain = hf_tl.train(backbone()[0], noisy, strategy, output_dir=str(tmp_path / "plain"), **QUICK).record
    assert plain.temperature is not None
    assert plain.temperature.value is not None
    assert plain.temperature.weights_digest == plain.weights_digest == plain.measured["test"].weights_digest
    refit = hf_tl.train(
        backbone()[0], noisy, replace(strategy, refit=True), output_dir=str(tmp_path / "refit"), **QUICK
    ).record
    assert refit.temperature is not None
    assert refit.temperature.value is None
    assert "retrained on the validation images" in str(refit.temperature.reason)
    assert refit.measured["test"].calibration["after"] is None
    assert refit.measured["validation"].weights_digest != refit.weights_digest == refit.measured["test"].weights_digest
