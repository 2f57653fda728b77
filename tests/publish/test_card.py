"""Cards: what they tell, and that no value in them can be more than text."""

import copy
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
from publish.records import climbed, evaluated, make_multi_label_record, make_record

import hf_tl
from hf_tl.card.card import PLACEHOLDER, render_card, with_repo_id
from hf_tl.card.metadata import card_metadata
from hf_tl.errors import PublishError
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
    """The blocks in order, the inline elements other than text and code, and what a renderer would make links of."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body_of(card))
    inline = [child for token in tokens for child in token.children or ()]
    links = [child.content for child in inline if child.type == "text" and AUTOLINK.search(child.content)]
    elements = Counter(child.type for child in inline if child.type not in ("text", "text_special", "code_inline"))
    return [(token.type, token.tag, token.level) for token in tokens], elements, links


JUDGED = {key: evaluated(make_record(labels=("a", "b")), images=True)[key] for key in ("evaluation", "card")}


def with_text(texts: list[str]) -> dict[str, Any]:
    """A record that has these texts wherever a text of the user's or of a dataset's can stand."""
    first, second, third, *labels = texts
    record = make_record(stages=("stem", first, second, "head"), labels=tuple(labels)) | copy.deepcopy(JUDGED)
    record["model"] |= {"architecture": first, "base_model": second, "base_model_revision": third}
    record["model"] |= {"base_model_license": first, "weights": second, "interpolation": third}
    record["strategy"]["name"] = third
    record["strategy"]["phases"][0]["norm"] = first
    record["phases"][1] |= {"digest_before": second, "digest_after": second}
    record["data"] |= {"name": first, "revision": second, "fingerprint": third, "license": first, "notes": texts[:2]}
    split, metrics = record["data"]["splits"]["test"], record["metrics"]["test"]
    names = [f"{first}1", f"{second}2", f"{third}3", "test"]
    record["data"]["splits"], record["metrics"] = dict.fromkeys(names, split), dict.fromkeys(names, metrics)
    record["transforms"] = {"train": second, "eval": third}
    record["hyperparameters"] = {f"{first}a": second, f"{second}b": third}
    record["versions"] = {f"{third}a": first, f"{first}b": second}
    record["card"] |= {"maps": True, "intended_use": second, "limits": third}
    for stage in record["stages"]:
        stage["modules"] = [first, third]
    climbed(record, (first, second))
    record["recommendation"] |= {"advice": third, "reason": first, "warnings": texts[:2]}
    record["rungs"][2]["why"] = record["stopped"] = third
    record["model"]["head"] = {"state": "new", "layers": [{"name": second, "shape": [2, 3]}]}
    # the names are those of flags, which are ours; `first` is one of the texts that a record's values can be
    settings = {"dataset": first, "phases": f"[{second}]", "card_limits": third, "seed": 0, "label_column": None}
    energy = {"kwh": 0.1, "method": first}
    return record | {"hardware": first, "command": second, "created": third, "settings": settings, "energy": energy}


HARMLESS = structure(render_card(with_text(["harmless"] * 5)))


def settings_in(card: str) -> Any:
    """What the block of settings holds, for those who train again by it."""
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
    (block,) = re.findall(r"\A---\n(.*?)\n---\n", card, re.DOTALL)
    assert yaml.safe_load(block)["model-index"][0]["results"][0]["dataset"]["name"] == one_line(texts[0])
    assert card_metadata(record).base_model in (texts[1], None)
    told = {name: value for name, value in record["settings"].items() if value is not None}
    assert settings_in(card) == told or any("\ud800" in text for text in texts)  # no YAML can hold half a character


def test_structure_sees_what_must_not_be_there() -> None:
    """The judge of the property test itself: each of these would be noticed in a card."""
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


def test_card_tells_the_run(record: dict[str, Any]) -> None:
    record["phases"][1]["learning_rates"] = {"layer4": 3e-4, "head": 3e-3}
    for stage in record["stages"]:
        stage["modules"] = [f"{stage['name']}.0", f"{stage['name']}.1"]
    record["model"]["head"] = {"state": "new", "layers": [{"name": "fc", "shape": [3, 256]}]}
    record["hyperparameters"] |= {"gradient_accumulation_steps": 2, "processes": 1}
    record["phases"][0] |= {"steps": 10, "seconds": 4.0}
    evaluated(record)["evaluation"]["splits"]["test"]["intervals"] |= {
        "accuracy": [0.8639, 0.9596],
        "macro_f1": [0.9, 0.95],
    }
    body = body_of(render_card(record))
    for told in (
        "tells 3 classes of images apart: `test_resnet` (timm), pretrained and then trained on `pets`",
        "25,771 of 55,771 parameters (46.2 %) in 2 phases",
        "right on 92.5 % of 120 test images (95 % interval 86.4–96.0 %)",
        "| test | 120 | 92.5 % | 86.4–96.0 % | 0.936 | 0.900–0.950 | 0.054 |",
        "## Intended use and limits\n\nIts author has named no use.",
        "### By class, on the test split",
        "Taken for another class most often: `",
        "![Which class was taken for which, of the test images](confusion.png)",
        "The expected calibration error of the predicted class, in 15 bins, is ",
        "with the logits divided by the temperature ",
        "![What came true over the probability given, by bins](reliability.png)",
        "- Head: fc (3 × 256), new, with random weights at the start",
        "- speed of phase 1, its evaluations and all else included: 160 training images a second",
        "- Base model: `timm/test_resnet.r160_in1k`",
        "- Phase 2: the 20 frozen tensors did not move",
        "| `stem` | `stem.0`, `stem.1` | 1,000 | 1.8 % | frozen | frozen |",
        "| `layer4` | `layer4.0`, `layer4.1` | 25,000 | 44.8 % | frozen | trained at 0.0003 |",
        "| `head` | `head.0`, `head.1` | 771 | 1.4 % | trained | trained at 0.003 |",
        "| 1 | `head` | 771 | 3 | 0.003 | – | frozen |",
        "| 2 | `layer4` to `head` (2) | 25,771 | 6 | 0.003 | 0.0003 | frozen |",
        "- phase 2: layer decay 1.0, weight decay 0.05, warmup ratio 0.1",
        "| `owl` | 120 | 20 | 40 |",
        "- no validation split: 10 % of train was set apart",
        "- time: 1 min 52 s, of which training 1 min 38 s",
        "```bash\nhf-tl train --dataset pets --strategy finetune\n```",
        "those after epoch 9 (phase 2)",
        "hf_tl 0.1.0, torch 2.15.0",
        "![Loss and validation accuracy by epoch, with the phases](history.png)",
    ):
        assert told in body


def test_card_tells_why_the_strategy(record: dict[str, Any]) -> None:
    assert "Why this strategy" not in render_card(record)
    climb = climbed(copy.deepcopy(record))
    body = body_of(render_card(climb))
    for told in (
        "looked at 1,400 images of train and validation before anything was trained, and advised to train the head. A "
        "head alone, on what vit already knows, gets 80.0 % right. There are few images.\n",
        "| `vit` | 1,234 | 80.0 % (70.0–88.0 %) | 80.0 % | -0.123 | `layer4` | 0.58 (0.50–0.66) |\n",
        "| `resnet` | 1,234 | 80.0 % (70.0–88.0 %) | 80.0 % | -0.123 | `head` | 0.58 (0.50–0.66) |\n",
        "\n\n- 1 images are copies of others\n- the classes are unequal: cat\n",
        "judged each on the 60 validation images",
        "| 1 | `head` | 771 | 90.0 % (80.0–95.0 %) | – | – | 12 s | kept: the first rung |\n",
        "| 2 | `layer4` to `head` | 1,542 | 90.0 % (80.0–95.0 %) | +2.1 | 0.031 | 12 s | kept: within noise of",
        "| 3 | `layer3` to `head` | 2,313 | 90.0 % (80.0–95.0 %) | +2.1 | 0.031 | 12 s | taken back: within noise of",
        "\nThe climb ended early: no gain beyond noise over the rung before.\n",
    ):
        assert told in body, told
    alone = body_of(render_card(climb | {"recommendation": None, "stopped": None}))
    assert "Why this strategy" in alone
    assert "advisor" not in alone
    assert "ended early" not in alone
    advised = body_of(render_card(climb | {"rungs": [], "stopped": None}))
    assert "| `vit` |" in advised
    assert "climbed" not in advised


def test_card_tells_that_the_model_was_trained_again(record: dict[str, Any]) -> None:
    again = "the model was trained again from the start{}, on train and validation together: 98,765 images."
    depth = ", as deep as the last rung that was kept and for as many passes as the rungs up to it"
    refit = {"refit": {"images": 98_765, "seconds": 1.0}}
    assert again.format("") in body_of(render_card(record | refit))
    card = body_of(render_card(climbed(record) | refit))
    assert again.format(depth) in card
    assert "The weights are those after" not in card
    assert "The weights are those after" in body_of(render_card(record | {"refit": None}))
    own = {"refit": refit["refit"] | {"learned_validation": False}}
    card = body_of(render_card(climbed(record) | own))
    assert "trained again from the start" + depth + ", on the 98,765 training images." in card
    assert "the validation split had no part in it" in card
    assert "of the training before it, which did not learn from that split" not in card


def test_card_of_a_multi_label_model() -> None:
    record = evaluated(make_multi_label_record())
    record["evaluation"]["splits"]["test"]["intervals"]["mean_average_precision"] = [0.7512, 0.9001]
    card = render_card(record)
    body = body_of(card)
    for told in (
        "tells which of 3 classes an image shows, any number of them: `test_resnet` (timm), pretrained",
        "mean average precision on 120 test images is 85.0 % (95 % interval 75.1–90.0 %); on 55.0 % of them all its",
        " right (95 % interval ",
        "logits.sigmoid()[0]",
        "It gives each class a probability of its own",
        "| Mean average precision | 95 % interval | Micro F1 | 95 % interval | Macro F1 | 95 % interval |",
        "| test | 120 | 85.0 % | 75.1–90.0 % | 0.750 | 0.",
        "bootstrap's for mean average precision and F1",
        "error of the probability of each class in each image, in 15 bins",
        "The mean average precision of test leaves out 1 class that no image of it shows.",
        "![Loss and validation mean average precision by epoch, with the phases](history.png)",
        "| `owl` | 120 | 20 | 0 |",
        "| all images | 360 | 60 | 120 |",
    ):
        assert told in body
    for wrong in (
        "softmax",
        "argmax",
        "It is right on",
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


@pytest.mark.parametrize(("classes", "is_shown"), [(5, False), (6, True)])
def test_a_top_five_that_cannot_be_missed_is_not_told(classes: int, is_shown: bool) -> None:
    record = make_record(labels=tuple("abcdef"[:classes]))
    assert ("| Top-5 accuracy |" in render_card(record)) == is_shown
    assert ("99.0 %" in render_card(record)) == is_shown
    names = [metric["name"] for metric in card_metadata(record).to_dict()["model-index"][0]["results"][0]["metrics"]]
    assert names == ["Accuracy", *(["Top-5 accuracy"] if is_shown else []), "Macro F1"]


def test_a_record_of_another_problem_is_refused(record: dict[str, Any]) -> None:
    record["model"]["problem_type"] = "regression"
    with pytest.raises(PublishError, match="problem_type is 'regression'"):
        render_card(record)


def test_metadata(record: dict[str, Any]) -> None:
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
    ("name", "revision", "datasets"),
    [("pets", None, None), ("user/pets", None, ["user/pets"]), ("beans", "0123abc", ["beans"]), ("my pets", "1", None)],
)
def test_only_a_hub_dataset_is_named_as_one(
    record: dict[str, Any], name: str, revision: str | None, datasets: list[str] | None
) -> None:
    record["data"] |= {"name": name, "revision": revision}
    assert card_metadata(record).datasets == datasets


@pytest.mark.parametrize("license_text", [None, "see LICENSE", "Apache 2.0"])
def test_license_is_never_invented(record: dict[str, Any], license_text: str | None) -> None:
    record["model"]["base_model_license"] = license_text
    assert card_metadata(record).license is None
    assert f"License of the base model: {license_text or 'not recorded'}" in render_card(record)


def test_a_license_that_the_hub_does_not_know_is_another_one_with_its_name(record: dict[str, Any]) -> None:
    record["model"]["base_model_license"] = "dinov3-license"
    metadata = card_metadata(record).to_dict()
    assert (metadata["license"], metadata["license_name"]) == ("other", "dinov3-license")


def test_model_from_scratch_has_no_base(record: dict[str, Any]) -> None:
    record["strategy"] |= {"name": "scratch", "from_scratch": True}
    metadata = card_metadata(record)
    assert (metadata.base_model, metadata.license, (metadata.tags or [])[-1]) == (None, None, "from-scratch")
    assert "Nothing: all weights were random" in render_card(record)


def test_unmeasured_model_claims_nothing(record: dict[str, Any]) -> None:
    del record["metrics"]["test"]
    card = render_card(record)
    assert "not measured on a test split" in card
    assert "model-index" not in card


def test_frozen_weights_that_moved_are_told(record: dict[str, Any]) -> None:
    record["phases"][0]["digest_after"] = "f" * 64
    assert "- Phase 1: **the 20 frozen tensors moved**" in render_card(record)


@pytest.mark.parametrize(("classes", "folded", "rows"), [(20, False, 20), (21, True, 21), (1000, True, 200)])
def test_long_tables_are_folded_and_cut(classes: int, folded: bool, rows: int) -> None:
    card = render_card(make_record(labels=tuple(f"class_{index}" for index in range(classes))))
    assert (f"<summary>The {classes} classes and their images</summary>" in card) == folded
    assert card.count("| `class_") == rows
    assert (f"and {classes - rows} more, in run.json" in card) == (rows < classes)
    tables = [token for token in MarkdownIt().enable("table").parse(body_of(card)) if token.type == "table_open"]
    assert len(tables) == 4


def test_repository_is_filled_in_without_touching_the_rest(record: dict[str, Any]) -> None:
    card = render_card(record)
    assert card.count(PLACEHOLDER) == 4
    assert render_card(record, "user/pets") == with_repo_id(card, "user/pets") == card.replace("USER/NAME", "user/pets")


def test_transformers_model_has_no_timm_snippet(record: dict[str, Any]) -> None:
    record["model"]["library"] = "transformers"
    card = render_card(record)
    assert "import timm" not in card
    assert "timm" not in (card_metadata(record).tags or ())


@pytest.mark.parametrize("path", [("model", "architecture"), ("hardware",), ("data", "labels"), ("strategy", "phases")])
def test_missing_part_of_the_record_is_named(record: dict[str, Any], path: tuple[str, ...]) -> None:
    *parents, key = path
    part = copy.deepcopy(record)
    holder = part
    for parent in parents:
        holder = holder[parent]
    del holder[key]
    with pytest.raises(PublishError, match=rf"run\.json.*{key}"):
        render_card(part)


def test_other_schema_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(PublishError, match="schema version 1, found 2"):
        render_card(record | {"schema_version": 2})


def test_what_a_record_does_not_say_is_not_told(record: dict[str, Any]) -> None:
    """As in records of before there were intervals, calibration and settings."""
    body = body_of(render_card(record))
    assert "It is right on 92.5 % of 120 test images.\n" in body
    assert "| test | 120 | 92.5 % | – | 0.936 | – | 0.054 |" in body
    for part in ("By class", "Calibration", "mistakes", "--config", "Head:", "energy", "speed"):
        assert part not in body
    assert body.count("![") == 2
    assert range_of(None, is_percentage=True) == "–"


def test_the_user_s_words_on_use_and_limits(record: dict[str, Any]) -> None:
    record["card"] = {"intended_use": "Sorting holiday photos.", "limits": "Not for # medicine.", "images": False}
    body = body_of(render_card(record))
    assert "## Intended use and limits\n\nSorting holiday photos.\n\nNot for &#35; medicine.\n\nIt gives one of" in body
    assert "named no use" not in body


def test_images_are_shown_only_where_allowed(record: dict[str, Any]) -> None:
    assert "mistakes.png" not in render_card(evaluated(record))
    assert "![Images of the most confident mistakes](mistakes.png)" in render_card(evaluated(record, images=True))


def test_a_model_without_mistakes_in_validation_has_no_temperature(record: dict[str, Any]) -> None:
    evaluated(record)["evaluation"]["temperature"] = None
    record["evaluation"]["splits"]["test"]["calibration"]["after"] = None
    assert "No temperature was fitted: nothing is wrong on the validation split." in render_card(record)


@pytest.mark.parametrize(
    ("norm", "told"),
    [("affine", "frozen, norms train at 0.0001"), ("adapt", "frozen, norms train and adapt at 0.0001")],
)
def test_norms_of_frozen_stages_are_told(record: dict[str, Any], norm: str, told: str) -> None:
    record["strategy"]["phases"][0]["norm"] = norm
    record["phases"][0]["learning_rates"] = {"stem": 1e-4, "head": 3e-3}
    assert re.search(rf"\| `stem` \|.*\| {told} \| frozen \|", render_card(record))


def test_energy_is_told_where_it_was_measured(record: dict[str, Any]) -> None:
    record["energy"] = {"kwh": 0.01234, "method": "CPU 0.0123; estimated by codecarbon 3.3.2"}
    assert "- energy: 0.012 kWh (CPU 0.0123; estimated by codecarbon 3.3.2)" in render_card(record)


@pytest.mark.parametrize("is_there", [True, False])
def test_installed_package_brings_its_template(tmp_path: Path, is_there: bool) -> None:
    """As in a wheel, where the template lies inside the package."""
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
    record = make_record()
    head = Phase(1, steps=1, solver="lbfgs", augmentation="none")
    record["strategy"] = Strategy("finetune", (head, Phase(2, 9))).to_record()
    record["phases"][0]["solution"] = {"l2_strength": 0.01, "held_out_loss": 0.34567, "folds": 5}
    record["best"]["phase"] = 0
    card = render_card(record)
    assert re.search(r"\| 1 \| .* \| solved \| – \| – \| frozen \|", card)
    line = next(line for line in card.splitlines() if line.startswith("- phase 1: "))
    assert "L2 strength 0.01, chosen in 5-fold cross-validation (held-out loss 0.3457)" in line
    assert not [name for name in ("warmup", "weight decay", "solver", "BatchNorm") if name in line]
    assert "after the solution of phase 1, the latest that no others are surely better than" in card
    assert "solver" not in next(line for line in card.splitlines() if line.startswith("- phase 2: "))
    record["phases"][0]["solution"] = {"l2_strength": 1 / 3, "held_out_loss": None, "folds": 0}
    assert "features, L2 strength 0.33\n" in render_card(record)
