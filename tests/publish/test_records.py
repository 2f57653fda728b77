"""Records: round trip, migration from version 1, and errors for damaged ones."""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import event, given, settings
from hypothesis import strategies as st
from publish.records import (
    climbed,
    evaluated,
    make_multi_label_record,
    make_record,
    put,
)

from hf_tl.card.card import render_card
from hf_tl.card.figures.draw import draw_figures, figures_of
from hf_tl.card.metadata import card_metadata
from hf_tl.card.summary import summarize
from hf_tl.demo.demo_story import tell_story
from hf_tl.errors import PublishError
from hf_tl.record import (
    CardTexts,
    FrozenProof,
    LearnedSplit,
    Origin,
    PlainMeasured,
    RefitRecord,
    RunRecord,
    SplitRecord,
    read_record,
    write_record,
)
from hf_tl.record.codec import RecordError

OLD = Path(__file__).with_name("run_of_version_1.json")
CARDS = sorted((Path(__file__).parents[2] / "model_cards").glob("*/run.json"))

texts = st.text(max_size=6)
maybe = st.none() | texts
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**12)
plain = st.recursive(
    st.none() | st.booleans() | counts | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
plain_mapping = st.dictionaries(texts, plain, max_size=3)
origins = st.recursive(
    st.builds(
        Origin,
        st.sampled_from(["hub", "file", "folder", "random", "memory"]),
        name=maybe,
        revision=maybe,
        license=maybe,
        file=maybe,
        sha256=maybe,
        seed=st.none() | counts,
        head=st.sampled_from([None, "new", "kept"]),
    ),
    lambda earlier: st.builds(
        Origin, st.sampled_from(["trained", "memory"]), name=maybe, data=maybe, strategy=maybe, earlier=earlier
    ),
    max_leaves=3,
)


@st.composite
def records(draw: st.DrawFn) -> RunRecord:
    """Draw records of every kind of run, with any values."""
    make = draw(st.sampled_from([make_record, make_multi_label_record]))
    record = draw(st.sampled_from([lambda record: record, evaluated, climbed]))(make())
    split = st.builds(
        SplitRecord,
        counts,
        st.lists(counts, min_size=3, max_size=3).map(tuple),
        maybe,
        st.sampled_from(["dataset", "drawn", "unknown"]),
        st.none() | counts,
        st.none() | numbers,
        st.dictionaries(texts, counts, max_size=2),
    )
    learned = st.builds(
        LearnedSplit, texts, texts, counts, maybe, st.none() | counts, st.none() | numbers, st.none() | numbers
    )
    texts_of_card = st.builds(CardTexts, maybe, maybe, st.booleans(), st.booleans())
    metrics = st.dictionaries(texts, st.none() | numbers, max_size=3)
    return put(
        record,
        status=draw(st.sampled_from(["training", "trained", "complete"])),
        origin=draw(origins),
        data__splits=draw(st.dictionaries(texts, split, max_size=3)),
        data__source=draw(st.sampled_from(["built-in", "hub", "folder", "files", "memory", "unknown"])),
        learned_from=tuple(draw(st.lists(learned, max_size=3))),
        phases__0__proof=FrozenProof(draw(counts), draw(texts), draw(texts)),
        phases__0__learning_rates=draw(st.dictionaries(texts, numbers, max_size=3)),
        phases__0__solution=draw(st.none() | plain_mapping),
        measured__test__metrics=draw(metrics),
        measured__test__learned=draw(counts),
        measured__test__plain=draw(
            st.none() | st.builds(PlainMeasured, st.dictionaries(texts, counts, max_size=2), metrics)
        ),
        refit=draw(st.none() | st.builds(RefitRecord, counts, st.lists(texts, max_size=2).map(tuple), numbers)),
        history=tuple(draw(st.lists(plain_mapping, max_size=2))),
        best=draw(st.none() | plain_mapping),
        hyperparameters=draw(plain_mapping),
        settings=draw(st.none() | plain_mapping),
        card=draw(texts_of_card),
    )


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(records())
def test_a_record_is_read_back_as_it_was_written(record: RunRecord) -> None:
    text = json.dumps(record.to_json(), allow_nan=False)
    event(record.origin.kind)
    assert RunRecord.from_json(json.loads(text)) == record


def test_a_record_is_written_whole(tmp_path: Path) -> None:
    record = climbed(evaluated(make_record()))
    write_record(record, tmp_path)
    assert read_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


# --- version 1


def render_all(record: RunRecord, folder: Path) -> str:
    """Pass a record to everything that publishes it, and return its card."""
    folder.mkdir(exist_ok=True)
    files = draw_figures(record, folder)
    assert {file.name for file in files} == set(figures_of(record).values()) - {"mistakes.png"}
    tell_story(record, None)
    summarize(record, folder)
    card = render_card(record)
    assert ModelCard(card).data.to_dict() == card_metadata(record).to_dict()
    return card


@pytest.mark.long
@pytest.mark.parametrize("file", [OLD, *CARDS], ids=lambda file: file.parent.name)
def test_the_example_records_are_published(file: Path, tmp_path: Path) -> None:
    record = RunRecord.from_json(json.loads(file.read_text(encoding="utf-8")))
    assert RunRecord.from_json(record.to_json()) == record
    render_all(record, tmp_path)


def test_a_record_of_version_1_is_published_without_what_it_did_not_state(tmp_path: Path) -> None:
    record = RunRecord.from_json(json.loads(OLD.read_text(encoding="utf-8")))
    card = render_all(record, tmp_path)
    for text in (
        "license: apache-2.0",
        "- fine-tuning",
        "**Test accuracy: 99.4%** (360 images, 95% CI 98.0–99.8%).",
        "Temperature scaling: none (records of schema version 1 do not state which weights it was fitted on).",
        "- The validation results are from the first training, which did not use the validation images; the published "
        "weights were trained on them.",
        "on train + validation: 1,437 images.",
        "Starting weights: the file `efficientnet-lite0-57934424.pth`, SHA-256 `579344248a93",
        "`digits`: 1,293 train, 144 validation, 360 test images.",
        "content not recorded",
    ):
        assert text in card, text
    for text in ("base_model", "0.051", "The temperature"):
        assert text not in card, text


def changed(change: Callable[[dict[str, Any]], None]) -> RunRecord:
    content = json.loads(OLD.read_text(encoding="utf-8"))
    change(content)
    return RunRecord.from_json(content)


def test_version_1_took_the_license_of_the_architecture_for_a_user_s_own_file() -> None:
    def own(content: dict[str, Any]) -> None:
        content["model"]["weights"] = f"own.pth, sha256 {'ab' * 32}"

    assert changed(own).start.base_license is None


def test_version_1_named_the_base_model_of_random_weights() -> None:
    def draw(content: dict[str, Any]) -> None:
        content["model"] |= {"base_model": "timm/resnet18.a1_in1k", "pretrained": False, "weights": None}

    metadata = card_metadata(changed(draw))
    assert (metadata.base_model, metadata.license, (metadata.tags or [])[-1]) == (None, None, "from-scratch")


def test_version_1_identified_a_hub_dataset_by_its_slash() -> None:
    def name(content: dict[str, Any]) -> None:
        content["data"]["name"] = "user/pets"

    assert card_metadata(changed(name)).datasets == ["user/pets"]


def test_a_recommendation_with_a_key_of_another_spelling_is_read() -> None:
    record = climbed(evaluated(make_record()))
    text = json.dumps(record.to_json()).replace("neighbo" + "rs", "neighbo" + "urs")
    assert RunRecord.from_json(json.loads(text)).recommendation == record.to_json()["recommendation"]


def test_a_head_of_several_layers_of_version_1_is_transfer_learning() -> None:
    def several(content: dict[str, Any]) -> None:
        last = [stage["name"] for stage in content["stages"]][-2:]
        content["strategy"] |= {"name": "transfer", "phases": content["strategy"]["phases"][:1], "from_scratch": False}
        content["strategy"]["phases"][0] |= {"trainable_stages": 2}
        content["phases"] = [{**content["phases"][0], "trainable_stages": last}]
        content["refit"] = None

    assert (card_metadata(changed(several)).tags or [])[-1] == "transfer-learning"


# --- damage

JUNK = (
    *(None, True, 0, -1, 1.5, math.nan, math.inf, 10**400, "", "x", "x" * 100_000, [], [[]], {}, {"a": {"b": [None]}}),
    *([0] * 1000, {"kind": "trained"}, json.loads("[" * 300 + "]" * 300)),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values inside a record."""
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    if isinstance(value, list):
        children = list(enumerate(value[:3]))
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def damaged(content: dict[str, Any], place: tuple[Any, ...], junk: Any, is_dropped: bool) -> dict[str, Any]:
    content = copy.deepcopy(content)
    holder: Any = content
    for key in place[:-1]:
        holder = holder[key]
    if is_dropped:
        del holder[place[-1]]
    else:
        holder[place[-1]] = junk
    return content


WHOLE = {
    "version 2": climbed(evaluated(make_record())).to_json(),
    "multi-label": evaluated(make_multi_label_record()).to_json(),
    "version 1": json.loads(OLD.read_text(encoding="utf-8")),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", WHOLE)
def test_a_damaged_record_is_read_or_refused_by_name(kind: str) -> None:
    """A value dropped or replaced anywhere: `RecordError`, or its readers raise `PublishError` or nothing."""
    choose = random.Random(0)
    refused = 0
    cases = [(place, choose.choice(JUNK), choose.random() < 0.3) for place in places(WHOLE[kind])]
    for place, junk, is_dropped in cases:
        content = damaged(WHOLE[kind], place, junk, is_dropped)
        try:
            record = RunRecord.from_json(content)
        except RecordError:
            refused += 1
            continue
        for publish in (render_card, lambda record: tell_story(record, None)):
            try:
                publish(record)
            except PublishError:
                refused += 1
    assert refused > len(cases) / 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "must map names to values, found list"),
        ("[" * 100_000 + "]" * 100_000, "cannot be read"),
        ('{"schema_version": 1}', "schema version 1 lacks"),
        ('{"schema_version": 99}', "schema version 99, and this hf_tl reads 1 to 2"),
        ('{"schema_version": 2}', "lacks status"),
        ("{}", "schema version None"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
    ],
)
def test_a_file_that_is_no_record_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(PublishError, match=said) as caught:
        read_record(tmp_path)
    assert str(tmp_path / "run.json") in str(caught.value)


def test_a_chain_without_end_is_refused() -> None:
    content = make_record().to_json()
    for _ in range(5000):
        content["origin"] = {"kind": "trained", "earlier": content["origin"]}
    with pytest.raises(RecordError, match="nested too deeply"):
        RunRecord.from_json(content)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    content = make_record().to_json()
    content["phases"][0]["seconds"] = value
    with pytest.raises(RecordError, match=r"the record\.phases\[0\]\.seconds"):
        RunRecord.from_json(content)


def test_metrics_that_are_no_numbers_are_published_as_missing(tmp_path: Path) -> None:
    record = put(make_record(), measured__test__metrics__accuracy=math.nan)
    read = RunRecord.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert read.measured["test"].metrics["accuracy"] is None
    card = render_all(read, tmp_path)
    assert "**Test accuracy: –** (120 images)." in card
    assert "name: Accuracy" not in card
