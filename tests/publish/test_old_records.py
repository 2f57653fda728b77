"""Records of schema version 1: each fact is read, and what was not stated stays unknown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_tl.record import CardTexts, Origin, RunRecord

OLD = Path(__file__).with_name("run_of_version_1.json")
READ = Path(__file__).with_name("run_of_version_1_read.json")
"""The same record in version 2, whose values were compared with those of version 1 by hand."""


def read(**changes: dict[str, Any]) -> RunRecord:
    """Return the record with changed values of some parts."""
    content = json.loads(OLD.read_text(encoding="utf-8"))
    for part, values in changes.items():
        content[part] |= values
    return RunRecord.from_json(content)


def test_every_fact_is_read() -> None:
    assert read().to_json() == json.loads(READ.read_text(encoding="utf-8"))


SHA = "ab12cd34" * 8
SHARED: dict[str, Any] = {"license": "apache-2.0", "head": "new"}


@pytest.mark.parametrize(
    ("model", "origin"),
    [
        (
            {"base_model": "timm/resnet18.a1_in1k", "base_model_revision": "491b427", "weights": None},
            Origin("hub", name="timm/resnet18.a1_in1k", revision="491b427", **SHARED),
        ),
        ({"weights": None}, Origin("folder", **SHARED)),
        ({"weights": "own.pth"}, Origin("file", file="own.pth", head="new")),
        ({"weights": f"own.pth, sha256 {SHA}"}, Origin("file", file="own.pth", sha256=SHA, head="new")),
        (
            {"weights": f"net-ab12cd34.pth, sha256 {SHA}"},
            Origin("file", file="net-ab12cd34.pth", sha256=SHA, **SHARED),
        ),
        ({"weights": f"net-ab12cd3.pth, sha256 {SHA}"}, Origin("file", file="net-ab12cd3.pth", sha256=SHA, head="new")),
        ({"pretrained": False}, Origin("random", head="new")),
        ({"weights": None, "head": None}, Origin("folder", license="apache-2.0")),
    ],
)
def test_where_the_weights_came_from(model: dict[str, Any], origin: Origin) -> None:
    assert read(model=model).origin == origin


def test_a_strategy_from_scratch_has_random_weights() -> None:
    assert read(strategy={"from_scratch": True}).origin == Origin("random", head="new")


@pytest.mark.parametrize(
    ("refit", "learned", "images", "is_of_saved_weights"),
    [
        (None, ["train"], None, True),
        ({"learned_validation": False, "seconds": 3.0}, ["train"], 1293, True),
        ({"seconds": 3.0, "images": 7}, ["train", "validation"], 7, False),
        ({"seconds": 3.0}, ["train", "validation"], 1437, False),
        ({"images": 1437}, ["train", "validation"], 1437, False),
    ],
)
def test_which_images_a_refit_learned_from(
    refit: dict[str, Any] | None, learned: list[str], images: int | None, is_of_saved_weights: bool
) -> None:
    content = json.loads(OLD.read_text(encoding="utf-8")) | {"refit": refit}
    record = RunRecord.from_json(content)
    assert [split.split for split in record.learned_from] == learned
    assert (record.refit and (record.refit.images, record.refit.splits)) == (images and (images, tuple(learned)))
    assert record.refit is None or record.refit.seconds == (refit or {}).get("seconds", 0.0)
    assert record.is_of_saved_weights("validation") is is_of_saved_weights
    assert record.is_of_saved_weights("test")


@pytest.mark.parametrize(
    ("data", "source"),
    [
        ({"name": "digits"}, "built-in"),
        ({"name": "user/pets"}, "hub"),
        ({"name": "beans", "revision": "90b755f"}, "hub"),
        ({"name": "pets"}, "unknown"),
    ],
)
def test_where_the_data_came_from(data: dict[str, Any], source: str) -> None:
    record = read(data=data)
    assert (record.data.source, record.data.revision) == (source, data.get("revision"))
    assert {split.data for split in record.learned_from} == {data["name"]}


def test_trained_parameters_are_those_of_all_phases() -> None:
    """Version 1 counted those of the last phase."""
    content = json.loads(OLD.read_text(encoding="utf-8"))
    sizes = {stage["name"]: stage["parameters"] for stage in content["stages"]}
    content["model"]["parameters_trained"] = 5
    content["phases"][0]["trainable_stages"] = ["stem", "head"]
    assert RunRecord.from_json(content).model.parameters_trained == sizes["stem"] + sizes["head"]
    content["model"]["parameters"] = 100
    assert RunRecord.from_json(content).model.parameters_trained == 100
    content["model"]["parameters_trained"] = sizes["stem"] + sizes["head"] + 1
    assert RunRecord.from_json(content).model.parameters_trained == sizes["stem"] + sizes["head"] + 1


def test_the_solution_of_a_head_is_kept() -> None:
    content = json.loads(OLD.read_text(encoding="utf-8"))
    content["phases"][0]["solution"] = {"penalty": 0.1}
    assert RunRecord.from_json(content).phases[0].solution == {"penalty": 0.1}


def test_the_texts_of_a_user_are_kept() -> None:
    """Version 1 wrote null for texts that were not given."""
    card = read(card={"intended_use": "sorting mail", "limits": None, "images": None}).card
    assert card == CardTexts(intended_use="sorting mail")


OPTIONAL = ["weights_digest", "evaluation", "refit", "card", "stopped", "recommendation", "best", "energy", "command"]
OPTIONAL += ["settings", "rungs", "history", "transforms", "hyperparameters", "versions", "hardware"]


@pytest.mark.parametrize("drop", [lambda content, name: content.pop(name, None), lambda c, n: c.update({n: None})])
def test_parts_that_were_not_stated_stay_unknown(drop: Callable[[dict[str, Any], str], object]) -> None:
    content = json.loads(OLD.read_text(encoding="utf-8"))
    for name in OPTIONAL:
        drop(content, name)
    content["strategy"]["phases"][0] |= {"epochs": None, "steps": 899}
    for name in ("learning_rates", "uses_features"):
        drop(content["phases"][0], name)
    drop(content["data"], "notes")
    record = RunRecord.from_json(content)
    assert (record.weights_digest, record.refit, record.hardware) == (None, None, "")
    assert (record.rungs, record.history, record.data.notes) == ((), (), ())
    assert (record.transforms, record.hyperparameters, record.versions) == ({}, {}, {})
    assert (record.stopped, record.recommendation, record.best, record.energy) == (None, None, None, None)
    assert (record.command, record.settings) == (None, None)
    assert (record.phases[0].epochs, record.phases[0].learning_rates, record.phases[0].uses_features) == (0, {}, False)
    test = record.measured["test"]
    assert (test.weights_digest, test.images) == ("unknown", 360)
    assert (test.intervals, test.classes, test.confusion, test.calibration, test.mistakes) == ({}, {}, (), {}, ())
