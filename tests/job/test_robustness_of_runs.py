"""Runs that measure the test metrics under corruptions: in Python, on the command line and under Trainer."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from backbones.processor_classes import tv
from cli.runs import TINY, write_images
from job.small_data import LABELS, QUICK, backbone, make_dataset
from trainer.strategy_trainers import make_args, make_data, make_trainer
from transformers import ViTConfig, ViTForImageClassification

import hf_tl
from hf_tl.backbones.libraries.processors import ProcessorPipeline
from hf_tl.cli import main
from hf_tl.data.decoding.images import ImageTransform, Transforms
from hf_tl.errors import ModelError
from hf_tl.record import Measured, read_record


def measured(folder: Path) -> Measured:
    """Return the test results of a run, whose card has the section on robustness."""
    assert "### Robustness" in (folder / "README.md").read_text("utf-8")
    assert (folder / "robustness.png").is_file()
    return read_record(folder).measured["test"]


def test_python_and_evaluate_measure_the_same(tmp_path: Path) -> None:
    model, transforms = backbone()
    data = hf_tl.load_data(make_dataset(60, noise=6))
    settings = {**QUICK, "output_dir": tmp_path / "out", "corruptions": True}
    result = hf_tl.train(model, data, hf_tl.Strategy.transfer(epochs=2), transforms=transforms, **settings)
    robustness = measured(tmp_path / "out").robustness
    assert robustness is not None
    assert "Under corruptions" in str(result)
    evaluation = hf_tl.evaluate(result, data, corruptions=True, include_training_images=True)
    assert evaluation.robustness is not None
    for first, second in zip(evaluation.robustness.results, robustness.results, strict=True):
        assert first.metrics["accuracy"] == second.metrics["accuracy"]
        assert first.metrics["loss"] == pytest.approx(second.metrics["loss"], abs=1e-5)
    assert evaluation.robustness.drop == robustness.drop


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = str(write_images(tmp_path / "photos", 12)), tmp_path / "out"
    flags = ["--strategy", "transfer", "--num_train_epochs", "2", "--corruptions", "--test_time_flip"]
    main(["train", *TINY, "--dataset", photos, *flags, "--output_dir", str(out)])
    robustness = measured(out).robustness
    assert robustness is not None
    assert "corruptions: true" in (out / "README.md").read_text("utf-8")
    capsys.readouterr()
    main(["evaluate", str(out), "--dataset", photos, "--corruptions"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("accuracy under corruptions: mean ") for line in lines)
    assert [line.split()[0] for line in lines[-5:]] == ["Gaussian", "Gaussian", "JPEG", "Brightness", "Contrast"]


def test_strategy_trainer(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "out", "transfer", make_data(), num_train_epochs=1, corruptions=True)
    trainer.train()
    assert measured(tmp_path / "out").robustness is not None


class Squaring(getattr(transformers, tv("ViTImageProcessor"))):  # type: ignore[misc]
    """Image processor whose outputs are not a linear map of the levels."""

    def _preprocess(self, images: Any, **settings: Any) -> Any:
        features = super()._preprocess(images, **settings)
        features["pixel_values"] = features["pixel_values"] ** 2
        return features


def train_with_trainer(model: Any, data: Any, strategy: str, **settings: Any) -> None:
    args = make_args(settings.pop("output_dir"))
    hf_tl.StrategyTrainer(model, args, strategy=strategy, data=data, **settings)


@pytest.mark.parametrize("train", [hf_tl.train, train_with_trainer])
def test_a_preprocessing_that_is_not_linear_is_refused_before_training(tmp_path: Path, train: Any) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    names = dict(enumerate(LABELS))
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, id2label=names, **sizes))
    pipeline = ImageTransform(ProcessorPipeline(Squaring(size={"height": 32, "width": 32})))
    data, transforms = hf_tl.load_data(make_dataset(60)), Transforms(pipeline, pipeline)
    with pytest.raises(ModelError, match=r"corruptions.* maps the levels of each channel linearly"):
        train(model, data, "transfer", output_dir=tmp_path / "out", transforms=transforms, corruptions=True)
    assert not (tmp_path / "out" / "config.json").exists()
