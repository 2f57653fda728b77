"""Errors of a record name the field; values that JSON does not know are written in the same way each time."""

import copy
import math
import re
from dataclasses import dataclass
from typing import Any

import pytest
from publish.records import climbed, evaluated, make_record

from hf_tl.record import CardTexts, Measured, RunRecord, Seconds, SplitRecord, Temperature
from hf_tl.record.codec import RecordError, decode, encode
from hf_tl.record.parts import GroupRecord
from hf_tl.strategy import Strategy

WHOLE = climbed(evaluated(make_record())).to_json()
DROPPED = object()


@pytest.mark.parametrize(
    ("place", "junk", "said"),
    [
        ("status", "done", "the record.status must be one of 'training', 'trained', 'complete', found 'done'"),
        ("created", None, "the record.created must be str, found None"),
        ("created", 5, "the record.created must be str, found 5"),
        ("seconds total", "long", "the record.seconds.total must be float, found 'long'"),
        ("seconds total", 10**400, "the record.seconds.total: int too large"),
        ("seconds total", math.inf, "the record.seconds.total must be a finite number, found inf"),
        ("model parameters", 1.5, "the record.model.parameters must be int, found 1.5"),
        ("model parameters", True, "the record.model.parameters must be int, found True"),
        ("model", [], "the record.model must map names to values, found list"),
        ("model library", DROPPED, "the record.model lacks library"),
        ("model color", "red", "the record.model has unknown fields: color"),
        ("stages 1 name", 7, "the record.stages[1].name must be str, found 7"),
        ("stages", "stem", "the record.stages must be a list, found str"),
        ("phases 1 uses_features", 1, "the record.phases[1].uses_features must be bool, found 1"),
        ("phases 0 recipe", 3, "the record.phases[0].recipe: "),
        ("phases 0 learning_rates head", "x", "the record.phases[0].learning_rates.head must be float, found 'x'"),
        ("data labels 2", None, "the record.data.labels[2] must be str, found None"),
        ("data splits train classes 1", "x", "the record.data.splits.train.classes[1] must be int, found 'x'"),
        ("measured test metrics", [0.5], "the record.measured.test.metrics must map names to values, found list"),
        ("measured test metrics accuracy", "x", "the record.measured.test.metrics.accuracy must be float, found 'x'"),
        ("measured test intervals accuracy", [0.5], "the record.measured.test.intervals.accuracy must have 2 entries"),
        ("measured test intervals accuracy 1", "x", "the record.measured.test.intervals.accuracy must be float"),
        ("strategy", 3, "the record.strategy: "),
        ("versions", [], "the record.versions must map names to values, found list"),
    ],
)
def test_an_error_names_the_field(place: str, junk: Any, said: str) -> None:
    content = copy.deepcopy(WHOLE)
    *parts, last = [int(part) if part.isdigit() else part for part in place.split()]
    holder: Any = content
    for part in parts:
        holder = holder[part]
    if junk is DROPPED:
        del holder[last]
    else:
        holder[last] = junk
    with pytest.raises(RecordError, match=re.escape(said)):
        RunRecord.from_json(content)


def test_what_a_record_writes() -> None:
    values = {"b": {3, 1, 2}, "a": frozenset("yxz"), 1: (1.5, math.nan, -math.inf), "none": None, "is": True}
    assert encode(values) == {"b": [1, 2, 3], "a": ["x", "y", "z"], "1": [1.5, None, None], "none": None, "is": True}
    strategy = Strategy.transfer(epochs=2)
    assert encode({"strategy": strategy}) == {"strategy": encode(strategy.to_record())}
    with pytest.raises(TypeError, match="found bytes"):
        encode(b"x")


@dataclass(frozen=True)
class Pair:
    """A record with fields of each kind."""

    pair: tuple[int, str]
    number: float = 0.0
    many: list[int] | None = None
    flags: tuple[bool, ...] = ()
    anything: Any = None


def test_what_a_record_reads() -> None:
    assert decode(Pair, {"pair": [1, "x"]}) == Pair((1, "x"))
    whole = decode(Pair, {"pair": (1, "x"), "number": 2, "many": [3, 4], "flags": [True], "anything": {"a": [1]}})
    assert whole == Pair((1, "x"), 2.0, [3, 4], (True,), {"a": [1]})
    assert type(whole.number) is float
    assert decode(Pair, {"pair": [1, "x"], "many": None}).many is None
    for pair in ([1], [1, "x", 2], ["x", 1], None):
        with pytest.raises(RecordError, match=r"the pair\.pair must"):
            decode(Pair, {"pair": pair}, "the pair")


def test_a_record_without_optional_parts_says_nothing_about_them() -> None:
    """Readers add up counts and seconds, and look for texts, without asking whether they were recorded."""
    assert encode(Seconds()) == {"total": 0.0, "train": 0.0}
    assert encode(CardTexts()) == {"intended_use": None, "limits": None, "images": False, "maps": False}
    assert encode(Temperature(None)) == {
        **{"value": None, "weights_digest": None, "split": None, "images": 0, "reason": None}
    }
    assert encode(Measured("test", None, 3, "d1", {})) == {
        **{"split": "test", "split_digest": None, "images": 3, "weights_digest": "d1", "metrics": {}},
        **{"intervals": {}, "classes": {}, "confusion": [], "calibration": {}, "mistakes": [], "learned": 0},
        **{"left_out": 0, "plain": None, "robustness": None, "groups": None},
    }
    assert encode(SplitRecord(3, (1, 2))) == {
        **{"images": 3, "classes": [1, 2], "digest": None, "source": "unknown", "seed": None, "share": None},
        **{"conversions": {}, "origin": None},
    }
    assert encode(GroupRecord("the column patient", 9, 3)) == {
        **{"origin": "the column patient", "number": 9, "largest": 3},
        **{"column": None, "pattern": "none", "near_duplicates": False},
    }


def test_a_record_of_a_run_may_lack_its_optional_parts() -> None:
    needed = ("status", "created", "origin", "model", "strategy", "stages", "phases", "data", "learned_from")
    content = {name: WHOLE[name] for name in (*needed, "schema_version")}
    record = RunRecord.from_json(content).to_json()
    assert {name: record[name] for name in content} == content
    assert {name: value for name, value in record.items() if name not in content and value not in (None, [], {})} == {
        "hardware": "",
        "selection": "one standard error",
        "seconds": {"total": 0.0, "train": 0.0},
        "card": {"intended_use": None, "limits": None, "images": False, "maps": False},
    }
    absent = {name: type(record[name]) for name in ("measured", "transforms", "hyperparameters", "versions", "history")}
    assert absent == {**dict.fromkeys(absent, dict), "history": list}


def test_a_record_names_no_file_to_read() -> None:
    """Records of others must not make hf_tl open files; those of hf_tl hold the list of transforms itself."""
    content = make_record().to_json()
    content["strategy"]["phases"][0]["augmentation"] = "gone.yaml"
    with pytest.raises(RecordError, match=r"phase 1 of \d: expected a list of transforms .* found the file gone\.yaml"):
        RunRecord.from_json(content)
    content["strategy"]["phases"][0]["augmentation"] = "/etc/passwd"
    with pytest.raises(RecordError, match=r"augmentation of a phase takes one of .* found '/etc/passwd'"):
        RunRecord.from_json(content)
