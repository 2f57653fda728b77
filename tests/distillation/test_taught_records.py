"""Runs with a teacher: refusals, record, resuming, and the images that they may be measured on."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones.checkpoints import save_transformers, tiny_vit
from datasets import Dataset, DatasetDict, concatenate_datasets
from distillation.taught import LABELS, LEARNING, QUICK, TEACHER, backbone, make_dataset, train_student, train_teacher
from hub.server import HubServer
from job.small_data import make_tags
from publish.pushed import published
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

import hf_tl
from hf_tl.backbones.candidates import candidates
from hf_tl.cli import main
from hf_tl.config import ModelConfig
from hf_tl.distillation.teacher import check_teacher
from hf_tl.errors import CheckpointError, ConfigError, ModelError
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL
from hf_tl.publish.save import rewrite_card
from hf_tl.record import read_record
from hf_tl.strategy import Phase, Strategy

TAUGHT = Strategy("taught", (replace(LEARNING, epochs=1, distillation_weight=0.8, distillation_temperature=3.0),))


@pytest.mark.parametrize(
    ("labels", "problem", "named"),
    [
        (["dark", "gray"], SINGLE_LABEL, "only the teacher has light; only the dataset has gray"),
        (["dark", "light", "gray"], SINGLE_LABEL, "only the dataset has gray"),
        (["dark"], None, "only the teacher has light"),
        (LABELS, MULTI_LABEL, "multi_label_classification, found single_label_classification"),
    ],
)
def test_other_classes_are_refused(teacher: Path, labels: list[str], problem: Any, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        check_teacher(LoadedClassifier.load(teacher), labels, problem)


def test_classes_in_another_order_are_accepted(teacher: Path) -> None:
    classifier = LoadedClassifier.load(teacher)
    assert classifier.labels == ("light", "dark")
    check_teacher(classifier, LABELS, SINGLE_LABEL)


def test_duplicate_names_are_refused(teacher: Path) -> None:
    classifier = LoadedClassifier.load(teacher)
    classifier.model.config.id2label = {0: "dark", 1: "dark"}
    with pytest.raises(ModelError, match="unique class names"):
        check_teacher(classifier, LABELS)


def test_a_teacher_of_other_classes_is_refused_before_data_are_loaded(tmp_path: Path, teacher: Path) -> None:
    model, transforms = backbone(["cat", "dog"])
    with pytest.raises(ModelError, match="classes of the dataset"):
        hf_tl.train(model, tmp_path / "nowhere", TAUGHT, transforms=transforms, teacher=teacher, output_dir=tmp_path)


def test_a_model_cannot_teach_itself(tmp_path: Path) -> None:
    model, transforms = backbone()
    with pytest.raises(ModelError, match="found the same model"):
        hf_tl.train(model, make_dataset(), TAUGHT, transforms=transforms, teacher=model, output_dir=str(tmp_path))


def test_the_record_and_the_card_name_the_teacher_and_no_path(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train_student(tmp_path / "out", teacher, TAUGHT)
    assert "teacher (test_resnet) teaches its predictions" in capsys.readouterr().out
    record = read_record(result.output_dir)
    assert record.teacher is not None
    assert record.teacher.name == TEACHER
    assert record.teacher.weights_digest == read_record(teacher).weights_digest
    assert record.teacher.input_size == (3, 48, 48)
    assert record.phases[0].recipe.distillation_weight == 0.8
    card = (result.output_dir / "README.md").read_text(encoding="utf-8")
    for said in (f"`{record.teacher.weights_digest}`", "80.0% of the loss at temperature 3", "of the teacher"):
        assert said in card
    published_texts = (
        card + (result.output_dir / "run.json").read_text() + (result.output_dir / "config.json").read_text()
    )
    assert str(teacher.parent) not in published_texts
    (result.output_dir / "README.md").unlink()
    rewrite_card(result.output_dir)
    assert (result.output_dir / "README.md").read_text(encoding="utf-8") == card


def test_a_run_without_teacher_says_nothing_of_one(tmp_path: Path) -> None:
    result = train_student(tmp_path / "out", None, [LEARNING])
    assert result.record.teacher is None
    card = (result.output_dir / "README.md").read_text(encoding="utf-8").lower()
    assert "teacher" not in card.replace("teacher: none", "")
    assert "distillation temperature" not in card


def test_a_published_teacher_has_its_revision(tmp_path: Path, teacher: Path, hub: HubServer) -> None:
    revision = hf_tl.push(teacher, "user/teacher").rpartition("/")[2]
    data = make_dataset()
    folder = tmp_path / "images"
    for number, row in enumerate(data):
        (folder / LABELS[row["label"]]).mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / LABELS[row["label"]] / f"{number}.png")
    flags = ["--model", "timm:test_resnet", "--no_pretrained", "--image_size", "32", "--strategy", "full"]
    flags += ["--num_train_epochs", "1", "--report_to", "none", "--distillation_temperature", "2"]
    out = tmp_path / "out"
    main(["train", *flags, "--dataset", str(folder), "--teacher", "user/teacher", "--output_dir", str(out)])
    record = read_record(out)
    assert record.teacher is not None
    assert (record.teacher.name, record.teacher.revision) == ("user/teacher", revision)
    assert "--teacher user/teacher" in str(record.command)
    assert [(phase.recipe.distillation_weight, phase.recipe.distillation_temperature) for phase in record.phases] == [
        (0.9, 2.0)
    ]
    hf_tl.push(out, "user/student")
    files = published(hub, repo_id="user/student")
    assert json.loads(files["run.json"])["teacher"]["revision"] == revision
    assert f"revision `{revision}`" in files["README.md"].decode()


def test_a_teacher_of_an_earlier_revision(tmp_path: Path, teacher: Path, hub: HubServer) -> None:
    earlier = hf_tl.push(teacher, "user/teacher").rpartition("/")[2]
    newer = hf_tl.push(
        train_teacher(tmp_path / "newer", make_dataset(80, 101, LABELS[::-1])).output_dir, "user/teacher"
    ).rpartition("/")[2]
    results = {
        revision: train_student(tmp_path / name, "user/teacher", TAUGHT, teacher_revision=revision).record.teacher
        for name, revision in (("earlier", earlier), ("now", None))
    }
    digest = read_record(teacher).weights_digest
    assert (results[earlier].revision, results[earlier].weights_digest) == (earlier, digest)
    assert results[None].revision == newer
    assert results[None].weights_digest != digest


def test_a_revision_is_refused_for_what_has_none(tmp_path: Path, teacher: Path) -> None:
    classifier = LoadedClassifier.load(teacher)
    with pytest.raises(ConfigError, match="Hub id"):
        train_student(tmp_path / "out", teacher, TAUGHT, teacher_revision="main")
    for name in (classifier.model, None):
        with pytest.raises(ConfigError, match="teacher_revision is of a teacher on the Hub"):
            train_student(tmp_path / "out", name, TAUGHT, teacher_revision="main")
    with pytest.raises(ConfigError, match="found a loaded model"):
        LoadedClassifier.load(classifier.model, "main")
    with pytest.raises(ConfigError, match="Hub id"):
        hf_tl.load(teacher, revision="main")
    for backbone_name in ("timm:test_resnet", "demo", str(teacher)):
        with pytest.raises(ConfigError, match="Hub id"):
            hf_tl.load_backbone(backbone_name, LABELS, revision="main")
    models = candidates(ModelConfig("user/name,timm:test_resnet", model_revision="v2"))
    assert [model.revision for model in models] == ["v2", None]
    with pytest.raises(ConfigError, match="found 'timm:test_vit'"):
        candidates(ModelConfig("timm:test_vit,timm:test_resnet", model_revision="v2"))


def own_splits(seed: int) -> DatasetDict:
    return DatasetDict(
        train=make_dataset(24, seed), validation=make_dataset(8, seed + 1), test=make_dataset(12, seed + 2)
    )


def with_names(data: Dataset, names: list[str]) -> Dataset:
    order = [names.index(name) for name in LABELS]
    rows = {"image": data["image"], "label": [order[label] for label in data["label"]]}
    return Dataset.from_dict(rows, features=make_dataset(2, names=names).features)


def test_test_images_that_the_teacher_learned_from_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = own_splits(0)
    seen = data["test"].select(range(4))
    names = LABELS[::-1]
    images = DatasetDict(
        train=with_names(concatenate_datasets([make_dataset(20, 50), seen]), names),
        validation=with_names(make_dataset(8, 51), names),
        test=with_names(make_dataset(8, 52), names),
    )
    teacher = train_teacher(tmp_path / TEACHER, images)
    capsys.readouterr()
    result = train_student(tmp_path / "out", teacher, TAUGHT, data)
    assert "4 of 12 test images are training images of the teacher: left out" in capsys.readouterr().out
    measured = result.record.measured["test"]
    assert (measured.images, measured.left_out) == (8, 4)
    assert [split.images for split in result.record.learned_from] == [24, 24]
    again = hf_tl.evaluate(result, data, split="test")
    assert again.images == 8
    both = train_student(tmp_path / "both", teacher, TAUGHT, data, include_training_images=True)
    assert (both.record.measured["test"].images, both.record.measured["test"].learned) == (12, 4)


def test_the_training_images_of_a_foreign_teacher_are_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_transformers(tiny_vit(("dark", "light")), tmp_path / "vit")
    result = train_student(tmp_path / "out", folder, TAUGHT)
    assert "hf_tl cannot tell whether the test images were among the training images" in capsys.readouterr().out
    assert result.record.teacher is not None
    assert (result.record.teacher.name, result.record.teacher.architecture) == ("vit", "vit")


def test_a_multi_label_teacher_teaches_each_decision(tmp_path: Path) -> None:
    data = hf_tl.load_data(make_tags(40, 0))
    phases = [Phase("all", 1, 0.003, augmentation="none", batch_norm="keep")]

    def train(folder: str, teacher: Any, phases: list[Phase]) -> hf_tl.RunResult:
        model, transforms = backbone(list(data.labels), problem_type=data.problem_type)
        output = str(tmp_path / folder)
        return hf_tl.train(model, data, phases, transforms=transforms, teacher=teacher, output_dir=output, **QUICK)

    teacher = train("teacher", None, phases)
    student = train("student", teacher, [replace(phases[0], distillation_weight=1.0)])
    (loss,) = [entry["train_loss"] for entry in student.record.history]
    assert 0 < loss < 0.5, "the divergence of two similar models is far below the loss of the labels"


@pytest.fixture
def stopped() -> Callable[..., None]:
    """Return a function that calls another, with SIGTERM after a few optimizer steps."""

    def run(train: Callable[[], object], steps: int) -> None:
        count = [0]

        def stop(*_: object) -> None:
            count[0] += 1
            if count[0] == steps:
                os.kill(os.getpid(), signal.SIGTERM)

        hook = register_optimizer_step_post_hook(stop)
        try:
            with pytest.raises(SystemExit):
                train()
        finally:
            hook.remove()

    return run


def test_a_resumed_run_keeps_its_teacher(tmp_path: Path, teacher: Path, stopped: Callable[..., None]) -> None:
    whole = train_student(tmp_path / "whole", teacher, TAUGHT)
    stopped(lambda: train_student(tmp_path / "out", teacher, TAUGHT), 2)
    with pytest.raises(CheckpointError, match="teacher"):
        train_student(tmp_path / "out", None, [LEARNING], resume_from_checkpoint="auto")
    other, _ = hf_tl.load(teacher)
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.5)
    with pytest.raises(CheckpointError, match="teacher was"):
        train_student(tmp_path / "out", other, TAUGHT, resume_from_checkpoint="auto")
    moved = shutil.copytree(teacher, tmp_path / "moved")
    resumed = train_student(tmp_path / "out", moved, TAUGHT, resume_from_checkpoint="auto")
    expected, kept = (load_file(each.output_dir / "model.safetensors") for each in (whole, resumed))
    assert expected.keys() == kept.keys()
    assert all(torch.equal(expected[name], kept[name]) for name in expected)
