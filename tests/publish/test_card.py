"""Cards of runs: what they state, in which order, and what they leave out."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from publish.cards import body_of
from publish.records import evaluated, make_record, put

import hf_tl
from hf_tl.card.card import render_card, with_repo_id
from hf_tl.card.metadata import card_metadata
from hf_tl.errors import PublishError
from hf_tl.record import CardTexts, RunRecord
from hf_tl.reporting.numbers import range_of

ROOT = Path(__file__).parents[2]


def in_order(text: str, *parts: str) -> bool:
    """Return whether all parts occur in this order."""
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


@pytest.fixture
def full(record: RunRecord) -> RunRecord:
    """Return a record with full results."""
    return put(
        evaluated(record),
        hyperparameters={**record.hyperparameters, "gradient_accumulation_steps": 2, "processes": 1},
        phases__0__steps=10,
        phases__0__seconds=4.0,
        measured__test__intervals={"accuracy": (0.8639, 0.9596), "macro_f1": (0.9, 0.95)},
    )


def test_what_a_reader_needs_comes_first(full: RunRecord) -> None:
    body = body_of(render_card(full))
    head, _, rest = body.partition("<details>")
    assert in_order(
        head,
        "# test_resnet on pets",
        "An image classification model for 3 classes: `cat`, `dog`, `owl`. It is `test_resnet` (timm), initialized "
        "from `timm/test_resnet.r160_in1k` and trained on `pets` with hf_tl: the last 2 of 6 stages were trained.",
        "**Test accuracy: 92.5%** (120 images, 95% CI 86.4–96.0%).",
        "![Stages in forward order, frozen and trained](stages.png)",
        'classifier = pipeline("image-classification", model="USER/NAME")',
    )
    assert len(head.splitlines()) < 25
    assert in_order(rest, "## Results", "## Strategy", "## Data", "## Intended use and limits", "## Technical details")


def test_all_but_the_main_statements_are_folded(full: RunRecord) -> None:
    body = body_of(render_card(full))
    visible = re.sub(r"<details>.*?</details>", "", body, flags=re.DOTALL)
    assert sum(map(bool, visible.splitlines())) < 50
    assert body.count("<details>") == body.count("</details>") == body.count("<summary>")
    for name in ("Images by class", "SHA-256", "Hyperparameters", "--config", "Versions", "hardware", "ECE"):
        assert name not in visible, name


def test_card_states_the_run(full: RunRecord) -> None:
    body = body_of(render_card(full))
    for text in (
        "| Split | Images | Accuracy (95% CI) | Macro F1 (95% CI) | Loss |",
        "| test | 120 | 92.5% (86.4–96.0%) | 0.936 (0.900–0.950) | 0.054 |",
        "Confidence intervals: Wilson for shares, bootstrap for F1",
        "<summary>Test results by class</summary>",
        "Most frequent confusions (true → predicted): `cat` → `dog` (5)",
        "![Confusion matrix of the test images](confusion.png)",
        "<summary>Calibration: expected calibration error 11.2%, 2.1% with temperature scaling</summary>",
        "Expected calibration error (ECE) of the predicted class on the test split, in 15 bins: 11.2%. With logits "
        "divided by the temperature 1.7, fitted on 60 validation images: 2.1%. The published logits are not scaled.",
        "![Reliability diagram: observed frequency by predicted probability](reliability.png)",
        "`finetune`, 2 phases: 25,771 of 55,771 parameters (46.2%) were trained.",
        "- Head: fc (3 × 256), randomly initialized",
        "- Base model: `timm/test_resnet.r160_in1k`",
        "- License of the starting weights: apache-2.0",
        "| `stem` | `stem.0`, `stem.1` | 1,000 | 1.8% | frozen | frozen |",
        "| `layer4` | `layer4.0`, `layer4.1` | 25,000 | 44.8% | frozen | trained at 0.0003 |",
        "| `head` | `head.0`, `head.1` | 771 | 1.4% | trained at 0.003 | trained at 0.003 |",
        "- Phase 2: the 20 frozen tensors did not change (SHA-256 `57934424",
        "| 1 | `head` | 771 | 3 epochs | 0.003 | – |",
        "| 2 | `layer4` to `head` (2) | 25,771 | 6 epochs | 0.003 | 0.0003 |",
        "- phase 2: layer decay 1.0, weight decay 0.05, warmup ratio 0.1",
        "`pets`: 360 train, 60 validation, 120 test images. License: not recorded.",
        "| `owl` | 120 | 20 | 40 |",
        "- no validation split: 10% of train was held out",
        "- `pets`, train: 360 images, digest `trtr",
        "- time: 1 min 52 s, of which training 1 min 38 s",
        "```bash\nhf-tl train --dataset pets --strategy finetune\n```",
        "Model selection: the end of phase 2, the latest checkpoint within one standard error",
        "hf_tl 0.1.0, torch 2.15.0",
        "![Loss and validation accuracy by epoch, with phases](history.png)",
    ):
        assert text in body, text


def test_many_classes_are_named_in_part() -> None:
    names = [f"class_{index}" for index in range(30)]
    body = body_of(render_card(make_record(labels=tuple(names))))
    assert "for 30 classes: `class_0`, `class_1`, " in body
    assert "`class_9` and 20 more. It is" in body


@pytest.mark.parametrize(
    ("changes", "cost"),
    [
        ({}, "30 s, 3,360 training images per second (evaluation included)"),
        ({"uses_features": True}, "30 s, with one pass of the images through the frozen stages"),
        (
            {"uses_features": True, "reuses_features": True},
            "30 s; the frozen features came from the cache of an earlier run or phase",
        ),
        ({"steps": 0}, "30 s"),
    ],
)
def test_costs_state_the_work_of_this_run(full: RunRecord, changes: dict[str, Any], cost: str) -> None:
    phase = {"steps": 1575, **changes}
    record = put(full, **{f"phases__1__{name}": value for name, value in phase.items()})
    assert f"- phase 2: {cost}\n" in render_card(record)


@pytest.mark.parametrize(
    ("status", "stated"),
    [
        ("training", "**Training has not ended.** These are the weights so far; resume with"),
        ("trained", "**Not evaluated.** Training ended, but these weights have not been evaluated."),
        ("complete", "Not evaluated on a test split."),
    ],
)
def test_unmeasured_model_claims_nothing(record: RunRecord, status: str, stated: str) -> None:
    card = render_card(put(record, status=status, measured={}))
    assert stated in card
    assert "## Results\n\nNot evaluated.\n" in card
    assert "Test accuracy" not in card
    assert "model-index" not in card


def test_weights_of_a_training_that_has_just_begun_have_a_card(record: RunRecord) -> None:
    begun = put(record, status="training", measured={}, phases=(), history=(), best=None, weights_digest=None)
    body = render_card(begun)
    assert "`finetune`, 0 phases: 25,771 of 55,771 parameters (46.2%) were trained." in body
    assert "with hf_tl: no stage was trained yet." in body


@pytest.mark.parametrize(("classes", "rows"), [(20, 20), (200, 200), (1000, 200)])
def test_long_tables_are_cut(classes: int, rows: int) -> None:
    card = render_card(make_record(labels=tuple(f"class_{index}" for index in range(classes))))
    assert card.count("| `class_") == rows
    assert (f"and {classes - rows} more, in run.json" in card) == (rows < classes)
    tables = [token for token in MarkdownIt().enable("table").parse(body_of(card)) if token.type == "table_open"]
    assert len(tables) == 4


def test_repository_is_filled_in_without_touching_the_rest(record: RunRecord) -> None:
    card = render_card(record)
    assert card.count('USER/NAME"') == 6
    assert render_card(record, "user/pets") == with_repo_id(card, "user/pets") == card.replace("USER/NAME", "user/pets")
    assert with_repo_id("of USER/NAME", "user/pets") == "of USER/NAME"


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


def test_missing_values_of_a_record_are_omitted(record: RunRecord) -> None:
    """Record without intervals, calibration and settings."""
    body = body_of(render_card(put(record, model__head__layers=())))
    assert "**Test accuracy: 92.5%** (120 images).\n" in body
    assert "| test | 120 | 92.5% | 0.936 | 0.054 |" in body
    for part in ("results by class", "Calibration", "errors", "--config", "Head:", "energy", "per second", "Wilson"):
        assert part not in body
    assert body.count("![") == 2
    assert range_of(None, is_percentage=True) == "–"


def test_the_user_s_words_on_use_and_limits(record: RunRecord) -> None:
    body = body_of(render_card(put(record, card=CardTexts("Sorting holiday photos.", "Not for # medicine."))))
    assert "## Intended use and limits\n\nSorting holiday photos.\n\nNot for &#35; medicine.\n\nThe model pred" in body
    assert "not specified" not in body


def test_measured_energy_is_among_the_costs(record: RunRecord) -> None:
    energy = {"kwh": 0.01234, "method": "CPU 0.0123; estimated by codecarbon 3.3.2"}
    line = "- energy: 0.012 kWh (CPU 0.0123; estimated by codecarbon 3.3.2)"
    assert line in render_card(put(record, energy=energy))


@pytest.mark.parametrize("is_there", [True, False])
def test_installed_package_brings_its_template(tmp_path: Path, is_there: bool) -> None:
    """Like in a wheel, where the template lies inside the package."""
    package = tmp_path / "hf_tl"
    shutil.copytree(Path(hf_tl.__path__[0]), package, ignore=shutil.ignore_patterns("__pycache__"))
    if is_there:
        shutil.copytree(ROOT / "model_cards", package / "model_cards")
    lines = "import sys", "sys.path.insert(0, sys.argv[1])", "from hf_tl.card.card import _template_file as f"
    code = "; ".join([*lines, "print(f('template.md'))"])
    done = subprocess.run([sys.executable, "-I", "-c", code, tmp_path], capture_output=True, text=True, check=False)
    if is_there:
        assert done.stdout.strip() == str(package / "model_cards" / "template.md")
    else:
        assert "template model_cards/template.md is missing" in done.stderr
