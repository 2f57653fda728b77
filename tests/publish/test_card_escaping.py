"""Every value appears on a card as plain text, whatever it holds."""

import re
from collections import Counter
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from publish.cards import body_of
from publish.records import climbed, evaluated, make_record, put, without_temperature

from hf_tl.card.card import render_card
from hf_tl.card.metadata import card_metadata
from hf_tl.record import (
    CardTexts,
    FrozenProof,
    LayerRecord,
    LearnedSplit,
    Origin,
    PlainMeasured,
    RefitRecord,
    RunRecord,
)
from hf_tl.reporting.plain import one_line

pytestmark = pytest.mark.long

FRAGMENTS = (
    *("\n", "\r\n", "\n\n", "---", "\n---\n", "# ", "\n# x\n", "|", " | ", "`", "```", "~~~", "*x*", "**", "_x_", "~~"),
    *("- ", "1. ", "> ", "===", "<b>", "</details>", "<!--", "<script>alert(1)</script>", "&lt;", "&#60;", "\\", "\t"),
    *("[x](http://e.vil)", "![x](x.png)", "[^1]", "http://e.vil", "www.e.vil", "a@e.vil", "<http://e.vil>", "    x"),
    *("license: mit", ": ", "{{ 7*7 }}", "{% raw %}", "$$x$$", "\\(x\\)", "'", '"', "\u2028", "\x85", "\x00", "\x0b"),
    *("\n```\n", "\n````\n\n# x\n"),
    *("\u202e", "\ud800", "\ufeff", "猫", "👨‍👩‍👧", "%s", "null", "@user", "#1", ":smile:", '"USER/NAME"'),
)

fragments = st.sampled_from(FRAGMENTS) | st.text(max_size=4)

hostile_text = st.lists(fragments, min_size=1, max_size=5).map("".join).filter(bool)

METADATA_KEYS = {
    *("pipeline_tag", "library_name", "base_model", "base_model_relation", "datasets", "license", "metrics", "tags"),
    *("license_link", "license_name", "model-index"),
}

AUTOLINK = re.compile(r"(https?|ftp)://|(mailto|xmpp):\S+@|www\.|[\w.+-]+@[\w-]+\.\w", re.IGNORECASE)  # of GFM


def structure(card: str) -> tuple[list[tuple[str, str, int]], Counter[str], list[str]]:
    """Return the blocks in order, the inline elements other than text and code, and the autolinks of renderers."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body_of(card))
    inline = [child for token in tokens for child in token.children or ()]
    links = [child.content for child in inline if child.type == "text" and AUTOLINK.search(child.content)]
    elements = Counter(child.type for child in inline if child.type not in ("text", "text_special", "code_inline"))
    return [(token.type, token.tag, token.level) for token in tokens], elements, links


def with_text(texts: list[str]) -> RunRecord:
    """Return a record with these texts in every place for a text of the user or of a dataset."""
    first, second, third, *labels = texts
    record = evaluated(make_record(stages=("stem", first, second, "head"), labels=tuple(labels)), images=True)
    record = without_temperature(climbed(record, (first, second)), third)
    test, split = record.measured["test"], record.data.splits["test"]
    test = put(test, learned=2, left_out=3, plain=PlainMeasured({first: 4}, {"accuracy": 0.5}))
    names = [f"{first}1", f"{second}2", f"{third}3", "test"]
    chain = Origin("trained", name=second, revision=third, data=first, strategy=second, license=first, head="new")
    chain = put(chain, earlier=Origin("trained", data=third, earlier=Origin("file", file=first, sha256=second)))
    chain = put(chain, pretraining=third)
    return put(
        record,
        origin=chain,
        model__architecture=first,
        model__head__layers=(LayerRecord(second, (2, 3)),),
        model__preprocessing__interpolation=third,
        strategy__name=third,
        stages=tuple(put(stage, modules=(first, third)) for stage in record.stages),
        phases__1__proof=FrozenProof(2, second, second),
        data__name=first,
        data__revision=second,
        data__fingerprint=third,
        data__license=first,
        data__notes=tuple(texts[:2]),
        data__source="hub",
        data__splits=dict.fromkeys(names, put(split, conversions={second: 7})),
        learned_from=(LearnedSplit(first, second, 5, third), LearnedSplit(second, third, 6)),
        measured={name: put(test, split=name) for name in names},
        refit=RefitRecord(12, (f"{first}1", f"{second}2"), 1.0),
        transforms={"train": second, "eval": third},
        hyperparameters={f"{first}a": second, f"{second}b": third},
        versions={f"{third}a": first, f"{first}b": second},
        card=CardTexts(second, third, images=True, maps=True),
        recommendation={**(record.recommendation or {}), "advice": third, "reason": first, "warnings": texts[:2]},
        rungs__2__why=third,
        stopped=third,
        hardware=first,
        command=second,
        created=third,
        # the names are those of flags; `first` is one of the texts that a record's values can be
        settings={"dataset": first, "phases": f"[{second}]", "card_limits": third, "seed": 0, "label_column": None},
        energy={"kwh": 0.1, "method": first},
    )


HARMLESS = structure(render_card(with_text(["harmless"] * 5)))


def settings_in(card: str) -> Any:
    """Return the settings of the card for a repeated training."""
    tokens = MarkdownIt("commonmark").parse(body_of(card))
    (block,) = [token.content for token in tokens if token.type == "fence" and token.info == "yaml"]
    return yaml.safe_load(block)


@settings(max_examples=250, deadline=None)
@given(st.lists(hostile_text, min_size=5, max_size=5))
def test_no_text_changes_the_shape_of_a_card(texts: list[str]) -> None:
    record = with_text(texts)
    card = render_card(record)
    card.encode()  # can be written
    assert structure(card) == HARMLESS

    metadata = ModelCard(card).data.to_dict()
    assert metadata == card_metadata(record).to_dict()
    assert set(metadata) <= METADATA_KEYS
    assert "model-index" not in metadata, "test images were learned from"
    (block,) = re.findall(r"\A---\n(.*?)\n---\n", render_card(put(record, measured__test__learned=0)), re.DOTALL)
    assert yaml.safe_load(block)["model-index"][0]["results"][0]["dataset"]["name"] == one_line(texts[0])
    assert card_metadata(record).base_model in (texts[1], None)
    expected = {name: value for name, value in (record.settings or {}).items() if value is not None}
    assert settings_in(card) == expected or any("\ud800" in text for text in texts)  # YAML cannot hold half a character


def test_structure_detects_forbidden_elements() -> None:
    """Control of the property test: each of these would be noticed in a card."""
    card = render_card(make_record())
    additions = [
        "\n# x\n",
        "\n- x\n",
        "[x](y)",
        "<b>",
        "\n<div>\n",
        "![x](y)",
        "**x**",
        "www.e.vil",
        "~~x~~",
        "\n\n> x",
    ]
    for addition in additions:
        assert structure(card + addition) != structure(card), addition
