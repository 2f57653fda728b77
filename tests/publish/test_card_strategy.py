"""Statements of cards about the strategy: phases, selection, retraining and the search of the stage depth."""

import re
from typing import Any

import pytest
from publish.cards import body_of
from publish.records import EARLIER_WEIGHTS, climbed, make_record, put

from hf_tl.card.card import render_card
from hf_tl.record import RefitRecord, RunRecord
from hf_tl.strategy import Phase, Strategy


def test_card_states_why_the_strategy(record: RunRecord) -> None:
    assert "advisor" not in render_card(record)
    assert "Stage depth" not in render_card(record)
    climb = climbed(record)
    body = body_of(render_card(climb))
    for text in (
        "evaluated frozen features of 1,400 train and validation images, and advised to train the head. A head alone, "
        "on what vit already knows, gets 80.0% right. There are few images.\n",
        "| `vit` | 1,234 | 80.0% (70.0–88.0%) | 80.0% (70.0–88.0%) | -0.123 | `layer4` | 0.58 (0.50–0.66) |\n",
        "| `resnet` | 1,234 | 80.0% (70.0–88.0%) | 80.0% (70.0–88.0%) | -0.123 | `head` | 0.58 (0.50–0.66) |\n",
        "\n\n- 1 images are copies of others\n- the classes are unequal: cat\n",
        "selected by a search that started with the head. Each depth started from the best weights of the one before "
        "and was evaluated on 60 validation images",
        "| 1 | `head` | 771 | 90.0% (80.0–95.0%) | – | – | 12 s | kept: the first rung |\n",
        "| 2 | `layer4` to `head` | 1,542 | 90.0% (80.0–95.0%) | +2.1 | 0.031 | 12 s | kept: within noise of",
        "| 3 | `layer3` to `head` | 2,313 | 90.0% (80.0–95.0%) | +2.1 | 0.031 | 12 s | reverted: within noise of",
        "\nThe search ended early: no gain beyond noise over the rung before.\n",
    ):
        assert text in body, text
    alone = body_of(render_card(put(climb, recommendation=None, stopped=None)))
    assert "Stage depth" in alone
    assert "advisor" not in alone
    assert "ended early" not in alone
    advised = body_of(render_card(put(climb, rungs=(), stopped=None)))
    assert "| `vit` |" in advised
    assert "Stage depth" not in advised


REFIT = RefitRecord(420, ("train", "validation"), 1.0)

BEFORE_REFIT = (
    "The validation results are from the first training, which did not use the validation images; the published "
    "weights were trained on them."
)


def test_card_states_that_the_model_was_retrained(record: RunRecord) -> None:
    again = "retrained from its starting weights{}, on train + validation: 420 images."
    depth = ", at the selected stage depth and for as many epochs as the search took to reach it"
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


def test_frozen_weights_that_moved_are_stated_with_both_digests(record: RunRecord) -> None:
    card = render_card(put(record, phases__0__proof__after="f" * 64))
    assert (
        f"- **Phase 1: the 20 frozen tensors changed** (SHA-256 before `{'57934424' * 8}`, after `{'f' * 64}`)" in card
    )


@pytest.mark.parametrize(
    ("norm", "state"),
    [("affine", "frozen, norms train at 0.0001"), ("adapt", "frozen, norms train and adapt at 0.0001")],
)
def test_trained_norms_of_frozen_stages_are_stated(record: RunRecord, norm: str, state: str) -> None:
    record = put(record, phases__0__recipe__norm=norm, phases__0__learning_rates={"stem": 1e-4, "head": 3e-3})
    card = render_card(record)
    assert re.search(rf"\| `stem` \|.*\| {state} \| frozen \|", card)
    assert re.search(r"- phase 1: .*norms of frozen stages train", card)


@pytest.mark.parametrize(
    ("recipe", "done", "length"),
    [
        (Phase(1, 10.0), {"epochs": 11.2}, "10 epochs"),
        (Phase(1, 10 / 3), {"epochs": 3.4}, "about 3 epochs"),
        (Phase(1, 25.0, patience=3), {"epochs": 11.2}, "11 of 25 epochs"),
        (Phase(1, 25.0, patience=3), {"epochs": 25.3}, "25 epochs"),
        (Phase(1, 1.0), {"epochs": 1.0}, "1 epoch"),
        (Phase(1, steps=500), {"steps": 500}, "500 steps"),
        (Phase(1, steps=2000, patience=3), {"steps": 1200}, "1,200 of 2,000 steps"),
    ],
)
def test_the_length_of_a_phase_is_counted_in_whole_epochs(
    record: RunRecord, recipe: Phase, done: dict[str, Any], length: str
) -> None:
    changes = {f"phases__0__{name}": value for name, value in done.items()}
    assert f"| 1 | `head` | 771 | {length} |" in render_card(put(record, phases__0__recipe=recipe, **changes))


@pytest.mark.parametrize(
    ("best", "name"), [(1, "epoch 1 of phase 1"), (3, "the end of phase 1"), (5, "epoch 2 of phase 2")]
)
def test_the_selected_checkpoint_is_a_whole_epoch_of_its_phase(record: RunRecord, best: int, name: str) -> None:
    """An epoch of seven batches of 32 of 200 images is 1.12 passes."""
    history = tuple({**entry, "epoch": 1.12 * entry["epoch"]} for entry in record.history)
    card = render_card(put(record, history=history, best__epoch=1.12 * best, best__phase=int(best > 3)))
    assert f"Model selection: {name}, the latest checkpoint" in card


def test_a_solved_head_has_a_regularization_strength_in_place_of_rates() -> None:
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
    assert re.search(r"\| 1 \| .* \| solved \| – \| – \|", card)
    line = next(line for line in card.splitlines() if line.startswith("- phase 1: "))
    assert "L2 strength 0.01, selected by 5-fold cross-validation (held-out loss 0.3457)" in line
    assert not [name for name in ("warmup", "weight decay", "solver", "BatchNorm") if name in line]
    assert "Model selection: the solution of phase 1, the latest checkpoint" in card
    assert "solver" not in next(line for line in card.splitlines() if line.startswith("- phase 2: "))
    other = put(record, phases__0__solution={"l2_strength": 1 / 3, "held_out_loss": None, "folds": 0})
    assert "features, L2 strength 0.33\n" in render_card(other)
