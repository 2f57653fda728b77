"""Cards: their statements, and that every value appears as plain text."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from publish.records import (
    EARLIER_WEIGHTS,
    climbed,
    evaluated,
    make_multi_label_record,
    make_record,
    put,
    without_temperature,
)

import hf_tl
from hf_tl.card.card import PLACEHOLDER, render_card, with_repo_id
from hf_tl.card.metadata import card_metadata
from hf_tl.errors import PublishError
from hf_tl.record import (
    CardTexts,
    FrozenProof,
    LayerRecord,
    LearnedSplit,
    Origin,
    PlainMeasured,
    RefitRecord,
    RunRecord,
    Temperature,
)
from hf_tl.reporting.markdown import one_line
from hf_tl.reporting.numbers import range_of
from hf_tl.strategy import Phase, Strategy

ROOT = Path(__file__).parents[2]
FRAGMENTS = (
    *("\n", "\r\n", "\n\n", "---", "\n---\n", "# ", "\n# x\n", "|", " | ", "`", "```", "~~~", "*x*", "**", "_x_", "~~"),
    *("- ", "1. ", "> ", "===", "<b>", "</details>", "<!--", "<script>alert(1)</script>", "&lt;", "&#60;", "\\", "\t"),
    *("[x](http://e.vil)", "![x](x.png)", "[^1]", "http://e.vil", "www.e.vil", "a@e.vil", "<http://e.vil>", "    x"),
    *("license: mit", ": ", "{{ 7*7 }}", "{% raw %}", "$$x$$", "\\(x\\)", "'", '"', "\u2028", "\x85", "\x00", "\x0b"),
    *("\n```\n", "\n````\n\n# x\n"),
    *("\u202e", "\ud800", "\ufeff", "猫", "👨‍👩‍👧", "%s", "null", "@user", "#1", ":smile:", PLACEHOLDER),
)
fragments = st.sampled_from(FRAGMENTS) | st.text(max_size=4)
hostile_text = st.lists(fragments, min_size=1, max_size=5).map("".join).filter(bool)
METADATA_KEYS = {
    *("pipeline_tag", "library_name", "base_model", "base_model_relation", "datasets", "license", "metrics", "tags"),
    *("license_name", "model-index"),
}
AUTOLINK = re.compile(r"(https?|ftp)://|(mailto|xmpp):\S+@|www\.|[\w.+-]+@[\w-]+\.\w", re.IGNORECASE)  # of GFM


def body_of(card: str) -> str:
    return ModelCard(card).text


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
    told = {name: value for name, value in (record.settings or {}).items() if value is not None}
    assert settings_in(card) == told or any("\ud800" in text for text in texts)  # YAML cannot hold half a character


def test_structure_sees_what_must_not_be_there() -> None:
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


def test_card_states_the_run(record: RunRecord) -> None:
    record = put(
        evaluated(record),
        hyperparameters={**record.hyperparameters, "gradient_accumulation_steps": 2, "processes": 1},
        phases__0__steps=10,
        phases__0__seconds=4.0,
        measured__test__intervals={"accuracy": (0.8639, 0.9596), "macro_f1": (0.9, 0.95)},
    )
    body = body_of(render_card(record))
    for text in (
        "An image classifier for 3 classes: `test_resnet` (timm), pretrained, then trained on `pets`",
        "25,771 of 55,771 parameters (46.2%) in 2 phases",
        "Test accuracy: 92.5% (120 images, 95% CI 86.4–96.0%).",
        "| test | 120 | 92.5% | 86.4–96.0% | 0.936 | 0.900–0.950 | 0.054 |",
        "## Intended use and limits\n\nIntended use: not specified.",
        "### Test results by class",
        "Most frequent confusions (true → predicted): `cat` → `dog` (5)",
        "![Confusion matrix of the test images](confusion.png)",
        "Expected calibration error (ECE) of the predicted class, in 15 bins: 11.2%. With logits divided by the "
        "temperature 1.7, fitted on 60 validation images: 2.1%. The published logits are not scaled.",
        "![Reliability diagram: observed frequency by predicted probability](reliability.png)",
        "- Head: fc (3 × 256), randomly initialized",
        "- speed of phase 1, evaluation included: 160 training images a second",
        "- Base model: `timm/test_resnet.r160_in1k`",
        "- License of the starting weights: apache-2.0",
        "- Phase 2: the 20 frozen tensors did not change; SHA-256 before `57934424",
        "| `stem` | `stem.0`, `stem.1` | 1,000 | 1.8% | frozen | frozen |",
        "| `layer4` | `layer4.0`, `layer4.1` | 25,000 | 44.8% | frozen | trained at 0.0003 |",
        "| `head` | `head.0`, `head.1` | 771 | 1.4% | trained at 0.003 | trained at 0.003 |",
        "| 1 | `head` | 771 | 3 epochs | 0.003 | – | frozen |",
        "| 2 | `layer4` to `head` (2) | 25,771 | 6 epochs | 0.003 | 0.0003 | frozen |",
        "- phase 2: layer decay 1.0, weight decay 0.05, warmup ratio 0.1",
        "| `owl` | 120 | 20 | 40 |",
        "- no validation split: 10% of train was set apart",
        "The weights learned from 360 images:\n\n- `pets`, train: 360 images, digest `trtr",
        "- time: 1 min 52 s, of which training 1 min 38 s",
        "```bash\nhf-tl train --dataset pets --strategy finetune\n```",
        "Model selection: the end of phase 2, the latest checkpoint within one standard error",
        "hf_tl 0.1.0, torch 2.15.0",
        "![Loss and validation accuracy by epoch, with phases](history.png)",
    ):
        assert text in body, text


def test_card_states_why_the_strategy(record: RunRecord) -> None:
    assert "Why this strategy" not in render_card(record)
    climb = climbed(record)
    body = body_of(render_card(climb))
    for text in (
        "measured frozen features of 1,400 train and validation images, and advised to train the head. A head alone, "
        "on what vit already knows, gets 80.0% right. There are few images.\n",
        "| `vit` | 1,234 | 80.0% (70.0–88.0%) | 80.0% | -0.123 | `layer4` | 0.58 (0.50–0.66) |\n",
        "| `resnet` | 1,234 | 80.0% (70.0–88.0%) | 80.0% | -0.123 | `head` | 0.58 (0.50–0.66) |\n",
        "\n\n- 1 images are copies of others\n- the classes are unequal: cat\n",
        "evaluated on the 60 validation images",
        "| 1 | `head` | 771 | 90.0% (80.0–95.0%) | – | – | 12 s | kept: the first rung |\n",
        "| 2 | `layer4` to `head` | 1,542 | 90.0% (80.0–95.0%) | +2.1 | 0.031 | 12 s | kept: within noise of",
        "| 3 | `layer3` to `head` | 2,313 | 90.0% (80.0–95.0%) | +2.1 | 0.031 | 12 s | taken back: within noise of",
        "\nStopped early: no gain beyond noise over the rung before.\n",
    ):
        assert text in body, text
    alone = body_of(render_card(put(climb, recommendation=None, stopped=None)))
    assert "Why this strategy" in alone
    assert "advisor" not in alone
    assert "Stopped early" not in alone
    advised = body_of(render_card(put(climb, rungs=(), stopped=None)))
    assert "| `vit` |" in advised
    assert "Stage depth" not in advised


REFIT = RefitRecord(420, ("train", "validation"), 1.0)
BEFORE_REFIT = (
    "The validation results are from the first training, which did not use the validation images; the published "
    "weights learned from them."
)


def test_card_states_that_the_model_was_retrained(record: RunRecord) -> None:
    again = "retrained from its starting weights{}, on train + validation: 420 images."
    depth = ", at the selected stage depth and for as many epochs as the depths up to it"
    refit = put(record, refit=REFIT, measured__validation__weights_digest=EARLIER_WEIGHTS)
    card = body_of(render_card(refit))
    assert again.format("") in card
    assert f"- {BEFORE_REFIT}" in card
    assert "The learning curves are from the first training." in card
    card = body_of(render_card(climbed(refit)))
    assert again.format(depth) in card
    assert "Model selection" not in card
    assert "Model selection" in body_of(render_card(record))


def test_validation_results_of_the_saved_weights_are_not_called_older(record: RunRecord) -> None:
    """After a refit without the validation split, whose evaluation was repeated."""
    card = body_of(render_card(put(record, refit=RefitRecord(360, ("train",), 1.0))))
    assert ", on train: 360 images." in card
    assert "results are from" not in card
    other = body_of(render_card(put(record, measured__validation__weights_digest=EARLIER_WEIGHTS)))
    assert "- The validation results are from earlier weights than the published ones." in other


def test_test_images_that_were_learned_from_are_stated(record: RunRecord) -> None:
    record = put(record, measured__test__learned=7, measured__test__left_out=5)
    card = render_card(record)
    start, _, results = body_of(card).partition("## Results")
    assert "7 of the 120 test images were training images: not an estimate of generalization." in start
    assert "\n- 7 of the 120 test images were training images: not an estimate" in results
    assert "\n- 5 images of the test split left out: the weights had learned from them.\n" in results
    assert "model-index" not in card, "the Hub ranks models by it"
    assert "7 of the 120" not in render_card(put(record, measured__test__learned=0))


def test_both_numbers_are_stated_where_a_plain_pipeline_sees_other_pixels(record: RunRecord) -> None:
    plain = PlainMeasured({"transparency": 16, "16-bit gray": 4}, {"accuracy": 0.5})
    record = put(record, measured__test__plain=plain, data__splits__test__conversions={"transparency": 16})
    body = body_of(render_card(record))
    assert (
        "- Test accuracy: 92.5% as evaluated by hf_tl, and 50.0% by a plain pipeline(), which treats some images "
        "differently (transparency: 16, 16-bit gray: 4)." in body
    )
    assert "Images that hf_tl converts and a plain pipeline() does not: test: transparency 16." in body


def test_all_that_the_weights_learned_from_is_stated(record: RunRecord) -> None:
    chain = (LearnedSplit("cats", "train", 1000, "ca" * 32), *record.learned_from, LearnedSplit("old", "train", 5))
    earlier = Origin("trained", data="cats", strategy="transfer", earlier=record.origin, head="kept")
    body = body_of(render_card(put(record, learned_from=chain, origin=earlier)))
    assert (
        f"The weights learned from up to 1,365 images:\n\n- `cats`, train: 1,000 images, digest `{'ca' * 32}`\n"
        f"- `pets`, train: 360 images, digest `{'tr' * 32}`\n- `old`, train: 5 images, content not recorded\n" in body
    )
    unknown = (LearnedSplit("old", "train", 0), *record.learned_from)
    body = body_of(render_card(put(record, learned_from=unknown)))
    assert "learned from images of which not all are recorded:\n\n- `old`, train: number of images not recorded" in body


def test_card_of_a_multi_label_model() -> None:
    record = evaluated(make_multi_label_record())
    record = put(record, measured__test__intervals__mean_average_precision=(0.7512, 0.9001))
    card = render_card(record)
    body = body_of(card)
    for text in (
        "An image classifier for 3 labels, any number of them in an image: `test_resnet` (timm), pretrained",
        "Test mean average precision: 85.0% (120 images, 95% CI 75.1–90.0%). Exact-match accuracy: 55.0% (95% CI ",
        "logits.sigmoid()[0]",
        "gives each label a probability of its own",
        "| Mean average precision | 95% CI | Micro F1 | 95% CI | Macro F1 | 95% CI |",
        "| test | 120 | 85.0% | 75.1–90.0% | 0.750 | 0.",
        "bootstrap for mean average precision and F1",
        "(ECE) of the probability of each class in each image, in 15 bins",
        "The mean average precision of test leaves out 1 label without images.",
        "![Loss and validation mean average precision by epoch, with phases](history.png)",
        "| `owl` | 120 | 20 | 0 |",
        "| all images | 360 | 60 | 120 |",
    ):
        assert text in body, text
    for wrong in (
        "softmax",
        "argmax",
        "Test accuracy",
        "one of its classes",
        "Top-5",
        "of validation leaves out",
        "confusion",
    ):
        assert wrong not in body
    results = ModelCard(card).data.to_dict()["model-index"][0]["results"][0]
    assert results["task"] == {"type": "image-classification", "name": "Multi-label image classification"}
    assert [(metric["type"], metric["name"], metric["value"]) for metric in results["metrics"]] == [
        ("mAP", "Mean average precision", 0.85),
        ("f1", "Micro F1", 0.75),
        ("f1", "Macro F1", pytest.approx(0.65)),
        ("accuracy", "Exact-match accuracy", pytest.approx(0.55)),
    ]
    assert ModelCard(card).data.tags == ["hf_tl", "timm", "multi-label-image-classification", "fine-tuning"]
    assert ModelCard(card).data.metrics == ["accuracy", "f1"]


@pytest.mark.parametrize(("classes", "is_shown"), [(9, False), (10, True)])
def test_a_top_five_that_cannot_be_missed_is_not_told(classes: int, is_shown: bool) -> None:
    record = make_record(labels=tuple("abcdefghij"[:classes]))
    assert ("| Top-5 accuracy |" in render_card(record)) == is_shown
    assert ("99.0%" in render_card(record)) == is_shown
    names = [metric["name"] for metric in card_metadata(record).to_dict()["model-index"][0]["results"][0]["metrics"]]
    assert names == ["Accuracy", *(["Top-5 accuracy"] if is_shown else []), "Macro F1"]


def test_a_record_of_another_problem_is_refused(record: RunRecord) -> None:
    with pytest.raises(PublishError, match="problem_type is 'regression'"):
        render_card(put(record, model__problem_type="regression"))


def test_metadata(record: RunRecord) -> None:
    metadata = card_metadata(record).to_dict()
    results = metadata.pop("model-index")[0]["results"][0]
    assert metadata == {
        "pipeline_tag": "image-classification",
        "library_name": "transformers",
        "base_model": "timm/test_resnet.r160_in1k",
        "base_model_relation": "finetune",
        "license": "apache-2.0",
        "metrics": ["accuracy", "f1"],
        "tags": ["hf_tl", "timm", "fine-tuning"],
    }
    assert results["metrics"][0] == {"type": "accuracy", "value": 0.925, "name": "Accuracy"}


@pytest.mark.parametrize(
    ("name", "source", "datasets"),
    [
        ("pets", "folder", None),
        ("user/pets", "hub", ["user/pets"]),
        ("user/pets", "folder", None),
        ("beans", "hub", ["beans"]),
        ("my pets", "hub", None),
    ],
)
def test_only_a_hub_dataset_is_named_as_one(
    record: RunRecord, name: str, source: str, datasets: list[str] | None
) -> None:
    assert card_metadata(put(record, data__name=name, data__source=source)).datasets == datasets


@pytest.mark.parametrize("license_text", [None, "see LICENSE", "Apache 2.0"])
def test_license_is_never_invented(record: RunRecord, license_text: str | None) -> None:
    record = put(record, origin__license=license_text)
    assert card_metadata(record).license is None
    assert f"License of the starting weights: {license_text or 'not recorded'}" in render_card(record)


def test_a_license_that_the_hub_does_not_know_is_another_one_with_its_name(record: RunRecord) -> None:
    metadata = card_metadata(put(record, origin__license="dinov3-license")).to_dict()
    assert (metadata["license"], metadata["license_name"]) == ("other", "dinov3-license")


@pytest.mark.parametrize(
    ("status", "stated"),
    [
        ("training", "**Training has not ended.** These are the weights so far; resume with"),
        ("trained", "**Not measured.** Training ended, but these weights have not been evaluated."),
        ("complete", "Not measured on a test split."),
    ],
)
def test_unmeasured_model_claims_nothing(record: RunRecord, status: str, stated: str) -> None:
    card = render_card(put(record, status=status, measured={}))
    assert stated in card
    assert "## Results\n\nNot measured.\n" in card
    assert "Test accuracy" not in card
    assert "model-index" not in card


def test_weights_of_a_training_that_has_just_begun_have_a_card(record: RunRecord) -> None:
    begun = put(record, status="training", measured={}, phases=(), history=(), best=None, weights_digest=None)
    assert "25,771 of 55,771 parameters (46.2%) in 0 phases" in render_card(begun)


def test_frozen_weights_that_moved_are_stated_with_both_digests(record: RunRecord) -> None:
    card = render_card(put(record, phases__0__proof__after="f" * 64))
    assert (
        f"- Phase 1: **the 20 frozen tensors changed**; SHA-256 before `{'57934424' * 8}`, after `{'f' * 64}`" in card
    )


@pytest.mark.parametrize(("classes", "folded", "rows"), [(20, False, 20), (21, True, 21), (1000, True, 200)])
def test_long_tables_are_folded_and_cut(classes: int, folded: bool, rows: int) -> None:
    card = render_card(make_record(labels=tuple(f"class_{index}" for index in range(classes))))
    assert (f"<summary>{classes} classes and their images</summary>" in card) == folded
    assert card.count("| `class_") == rows
    assert (f"and {classes - rows} more, in run.json" in card) == (rows < classes)
    tables = [token for token in MarkdownIt().enable("table").parse(body_of(card)) if token.type == "table_open"]
    assert len(tables) == 4


def test_repository_is_filled_in_without_touching_the_rest(record: RunRecord) -> None:
    card = render_card(record)
    assert card.count(PLACEHOLDER) == 4
    assert render_card(record, "user/pets") == with_repo_id(card, "user/pets") == card.replace("USER/NAME", "user/pets")


def test_transformers_model_has_no_timm_snippet(record: RunRecord) -> None:
    record = put(record, model__library="transformers")
    card = render_card(record)
    assert "import timm" not in card
    assert "timm" not in (card_metadata(record).tags or ())


@pytest.mark.parametrize(
    "damage",
    [
        {"best": {"epoch": 1.0}},
        {"best": {"epoch": "1", "phase": 0, "validation": {}}},
        {"energy": {}},
        {"energy": {"kwh": "much", "method": "x"}},
        {"recommendation": {"data": 3}},
        {"rungs": ({},)},
        {"measured__test__classes": {"images": [1]}},
        {"measured__test__confusion": ((0, 99, 1),)},
        {"measured__test__calibration": {"before": None}},
        {"phases__0__trained_stages": ()},
        {"phases__0__solution": {"l2_strength": None}},
        {"data__splits__test__classes": (1,)},
    ],
)
def test_a_damaged_record_is_one_clear_error(record: RunRecord, damage: dict[str, Any]) -> None:
    with pytest.raises(PublishError, match=r"the card cannot be written: the record \(run\.json\) lacks or mixes up"):
        render_card(put(record, **damage))


def test_what_a_record_does_not_say_is_not_told(record: RunRecord) -> None:
    """Record without intervals, calibration and settings."""
    body = body_of(render_card(put(record, model__head__layers=())))
    assert "Test accuracy: 92.5% (120 images).\n" in body
    assert "| test | 120 | 92.5% | – | 0.936 | – | 0.054 |" in body
    for part in ("results by class", "Calibration", "mistakes", "--config", "Head:", "energy", "speed"):
        assert part not in body
    assert body.count("![") == 2
    assert range_of(None, is_percentage=True) == "–"


def test_the_user_s_words_on_use_and_limits(record: RunRecord) -> None:
    body = body_of(render_card(put(record, card=CardTexts("Sorting holiday photos.", "Not for # medicine."))))
    assert "## Intended use and limits\n\nSorting holiday photos.\n\nNot for &#35; medicine.\n\nThe model pred" in body
    assert "not specified" not in body


def test_images_are_shown_only_where_allowed(record: RunRecord) -> None:
    assert "mistakes.png" not in render_card(evaluated(record))
    assert "![Images of the most confident mistakes](mistakes.png)" in render_card(evaluated(record, images=True))


def test_a_missing_temperature_is_given_a_reason(record: RunRecord) -> None:
    card = render_card(without_temperature(evaluated(record), "no validation image is wrong"))
    assert "in 15 bins: 11.2%. Temperature scaling: none (no validation image is wrong).\n" in card
    assert "divided by" not in card


def test_a_calibration_without_its_temperature_is_not_shown(record: RunRecord) -> None:
    """Result `after` a temperature that no record confirms."""
    card = render_card(put(evaluated(record), temperature=None))
    assert "2.1%" not in card
    assert "Temperature scaling: none (no temperature was fitted)." in card


def test_a_temperature_of_other_weights_is_no_record(record: RunRecord) -> None:
    with pytest.raises(ValueError, match="fitted on other weights"):
        put(evaluated(record), temperature=Temperature(1.7, EARLIER_WEIGHTS, "validation", 60))


@pytest.mark.parametrize(
    ("norm", "told"),
    [("affine", "frozen, norms train at 0.0001"), ("adapt", "frozen, norms train and adapt at 0.0001")],
)
def test_norms_of_frozen_stages_are_told(record: RunRecord, norm: str, told: str) -> None:
    record = put(record, phases__0__recipe__norm=norm, phases__0__learning_rates={"stem": 1e-4, "head": 3e-3})
    assert re.search(rf"\| `stem` \|.*\| {told} \| frozen \|", render_card(record))


def test_energy_is_told_where_it_was_measured(record: RunRecord) -> None:
    energy = {"kwh": 0.01234, "method": "CPU 0.0123; estimated by codecarbon 3.3.2"}
    told = "- energy: 0.012 kWh (CPU 0.0123; estimated by codecarbon 3.3.2)"
    assert told in render_card(put(record, energy=energy))


@pytest.mark.parametrize(
    ("recipe", "done", "told"),
    [
        (Phase(1, 10.0), {"epochs": 11.2}, "10 epochs"),
        (Phase(1, 10 / 3), {"epochs": 3.4}, "3.33 epochs"),
        (Phase(1, 25.0, patience=3), {"epochs": 11.2}, "11 of 25 epochs"),
        (Phase(1, 25.0, patience=3), {"epochs": 25.3}, "25 epochs"),
        (Phase(1, 1.0), {"epochs": 1.0}, "1 epoch"),
        (Phase(1, steps=500), {"steps": 500}, "500 steps"),
        (Phase(1, steps=2000, patience=3), {"steps": 1200}, "1,200 of 2,000 steps"),
    ],
)
def test_the_length_of_a_phase_is_counted_in_whole_epochs(
    record: RunRecord, recipe: Phase, done: dict[str, Any], told: str
) -> None:
    changes = {f"phases__0__{name}": value for name, value in done.items()}
    assert f"| 1 | `head` | 771 | {told} |" in render_card(put(record, phases__0__recipe=recipe, **changes))


@pytest.mark.parametrize(
    ("best", "told"), [(1, "epoch 1 of phase 1"), (3, "the end of phase 1"), (5, "epoch 2 of phase 2")]
)
def test_the_selected_checkpoint_is_a_whole_epoch_of_its_phase(record: RunRecord, best: int, told: str) -> None:
    """An epoch of seven batches of 32 of 200 images is 1.12 passes."""
    history = tuple({**entry, "epoch": 1.12 * entry["epoch"]} for entry in record.history)
    card = render_card(put(record, history=history, best__epoch=1.12 * best, best__phase=int(best > 3)))
    assert f"Model selection: {told}, the latest checkpoint" in card


@pytest.mark.parametrize("is_there", [True, False])
def test_installed_package_brings_its_template(tmp_path: Path, is_there: bool) -> None:
    """Like in a wheel, where the template lies inside the package."""
    package = tmp_path / "hf_tl"
    shutil.copytree(Path(hf_tl.__path__[0]), package, ignore=shutil.ignore_patterns("__pycache__"))
    if is_there:
        shutil.copytree(ROOT / "model_cards", package / "model_cards")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from hf_tl.card.card import _template_file as f; print(f())"
    done = subprocess.run([sys.executable, "-I", "-c", code, tmp_path], capture_output=True, text=True, check=False)
    if is_there:
        assert done.stdout.strip() == str(package / "model_cards" / "template.md")
    else:
        assert "template model_cards/template.md is missing" in done.stderr


def test_a_solved_head_tells_its_strength_in_place_of_rates() -> None:
    head = Phase(1, steps=1, solver="lbfgs", augmentation="none")
    record = put(
        make_record(),
        strategy=Strategy("finetune", (head, Phase(2, 9.0))),
        phases__0__recipe=head,
        phases__0__steps=1,
        phases__0__learning_rates={},
        phases__0__solution={"l2_strength": 0.01, "held_out_loss": 0.34567, "folds": 5},
        best__phase=0,
    )
    card = render_card(record)
    assert re.search(r"\| 1 \| .* \| solved \| – \| – \| frozen \|", card)
    line = next(line for line in card.splitlines() if line.startswith("- phase 1: "))
    assert "L2 strength 0.01, chosen in 5-fold cross-validation (held-out loss 0.3457)" in line
    assert not [name for name in ("warmup", "weight decay", "solver", "BatchNorm") if name in line]
    assert "Model selection: the solution of phase 1, the latest checkpoint" in card
    assert "solver" not in next(line for line in card.splitlines() if line.startswith("- phase 2: "))
    other = put(record, phases__0__solution={"l2_strength": 1 / 3, "held_out_loss": None, "folds": 0})
    assert "features, L2 strength 0.33\n" in render_card(other)
