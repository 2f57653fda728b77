"""Models to evaluate, in torch and in memory: names, facts, records and training images."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from backbones.checkpoints import LABELS, tiny_vit
from publish.records import make_record

import hf_tl
from hf_tl.backbones.load import preprocessing_of
from hf_tl.backbones.weights.digest import digest
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.holdout.opening import load_classifier
from hf_tl.evaluation.metrics import MULTI_LABEL, PROBLEM_TYPES, SINGLE_LABEL, problem_type_of
from hf_tl.publish.save import commit_model
from hf_tl.record import RECORD_FILE, LearnedFrom, read_record


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model as a training does."""
    folder = tmp_path_factory.mktemp("run") / "insects"
    model, transforms = hf_tl.load_backbone("timm:test_resnet", LABELS, "transfer", pretrained=False, image_size=32)
    learned = LearnedFrom().plus("images", "train", 2, [b"a" * 32, b"b" * 32])
    record = replace(make_record(labels=LABELS), status="trained", measured={}, temperature=None)
    record = replace(record, learned_from=learned.splits)
    commit_model(model, preprocessing_of(model, transforms), record, learned, folder)
    return folder


def test_a_saved_model_is_named_as_its_folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (trained, str(trained), f"{trained}{os.sep}", trained / ".." / "insects"):
        classifier = load_classifier(source)
        assert isinstance(classifier, LoadedClassifier)
        assert classifier.name == "insects"
    monkeypatch.chdir(trained)
    assert load_classifier(".").name == "insects"
    assert replace(load_classifier("."), source="user/insects").name == "user/insects"


def test_facts_of_a_saved_model(trained: Path) -> None:
    classifier = LoadedClassifier.load(trained)
    parameters = sum(parameter.numel() for parameter in classifier.network.parameters())
    assert classifier.describe() == {
        "architecture": "test_resnet", "strategy": "finetune", "parameters": parameters, "runtime": "torch",
    }  # fmt: skip
    assert (classifier.labels, classifier.problem, classifier.input_size) == (LABELS, SINGLE_LABEL, (32, 32))
    record = read_record(trained)
    assert classifier.record == record
    assert classifier.weights_digest == record.weights_digest
    assert classifier.learned.digests == {b"a" * 16, b"b" * 16}
    assert classifier.learned.is_complete
    assert classifier.transform is classifier.transforms.eval
    assert classifier.scaling == preprocessing_of(classifier.model).scaling


def test_a_loaded_model_has_the_record_of_its_folder_while_its_weights_are_the_same(trained: Path) -> None:
    model, _ = hf_tl.load(trained)
    same = LoadedClassifier.load(model)
    assert same.name == type(model).__name__
    assert same.record == read_record(trained)
    assert same.learned == LoadedClassifier.load(trained).learned
    assert same.weights_digest == read_record(trained).weights_digest
    model, _ = hf_tl.load(trained)
    torch.nn.init.zeros_(next(model.parameters()))
    changed = LoadedClassifier.load(model)
    assert changed.record is None
    assert not changed.learned.is_complete
    assert changed.learned.digests == same.learned.digests
    assert changed.weights_digest == digest(model.state_dict()) != same.weights_digest


def test_a_folder_that_was_trained_again_has_no_record_of_a_model_in_memory(trained: Path, tmp_path: Path) -> None:
    model, transforms = hf_tl.load_backbone("timm:test_resnet", LABELS, pretrained=False, image_size=32)
    torch.nn.init.ones_(next(model.parameters()))
    assert LoadedClassifier.load(model).record is None
    record = replace(read_record(trained), weights_digest=None)
    folder = tmp_path / "insects"
    commit_model(model, preprocessing_of(model, transforms), record, LearnedFrom(), folder)
    loaded, _ = hf_tl.load(folder)
    assert LoadedClassifier.load(loaded).record is not None
    (folder / RECORD_FILE).write_bytes((trained / RECORD_FILE).read_bytes())
    assert LoadedClassifier.load(loaded).record is None
    (folder / RECORD_FILE).unlink()
    assert LoadedClassifier.load(loaded).record is None


def test_problem_types_of_configs() -> None:
    assert {problem.name: problem for problem in (SINGLE_LABEL, MULTI_LABEL)} == PROBLEM_TYPES
    model = tiny_vit()
    for name, problem in ((None, SINGLE_LABEL), *PROBLEM_TYPES.items()):
        model.config.problem_type = name
        assert problem_type_of(model) is problem
    assert problem_type_of(torch.nn.Identity()) is SINGLE_LABEL


def test_decisions_and_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.5, 1.0]])
    assert SINGLE_LABEL.decide(logits.numpy()).tolist() == [1, 0]
    assert MULTI_LABEL.decide(logits.numpy()).tolist() == [[0, 1, 0], [1, 1, 1]]
    assert torch.equal(SINGLE_LABEL.probabilities(logits), logits.softmax(1))
    assert torch.equal(SINGLE_LABEL.probabilities(logits[None]), logits.softmax(1)[None])
    assert torch.equal(MULTI_LABEL.probabilities(logits), logits.sigmoid())
    assert SINGLE_LABEL.is_right(logits.numpy(), torch.tensor([1, 1]).numpy()).tolist() == [True, False]
    flags = torch.tensor([[0, 1, 0], [1, 1, 0]]).numpy()
    assert MULTI_LABEL.is_right(logits.numpy(), flags).tolist() == [True, False]
