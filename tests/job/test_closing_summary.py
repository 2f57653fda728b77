"""The summary that ends a training: results, selected checkpoint, and how to load the model."""

from dataclasses import replace
from pathlib import Path

import pytest
from publish.records import evaluated, make_phase, make_record, put

from hf_tl.card.summary import kept_checkpoint, summarize
from hf_tl.phase import Phase
from hf_tl.record import RefitRecord, RunRecord

LATEST = ", the latest checkpoint within one standard error of the best validation accuracy"


def counted_in_steps(record: RunRecord) -> RunRecord:
    """Return the record with 60 steps in its second phase, of which those after step 30 were not selected."""
    second = replace(make_phase(Phase(2, steps=60), ("layer4", "head")), steps=60, epochs=6.0)
    return put(replace(record, phases=(record.phases[0], second)), best__epoch=6.0)


def with_solved_head(record: RunRecord) -> RunRecord:
    solved = make_phase(Phase(1, steps=1, solver="lbfgs", augmentation="none"), ("head",))
    return put(replace(record, phases=(solved, record.phases[1])), best__phase=0, best__epoch=3.0)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (make_record(), "epoch 9 of 9, phase 2"),
        (put(make_record(), best__epoch=7.0046), f"epoch 7 of 9, phase 2{LATEST}"),
        (put(make_record(), best__epoch=3.0, best__phase=0), f"epoch 3 of 9, phase 1{LATEST}"),
        (counted_in_steps(make_record()), f"step 30 of 60, phase 2{LATEST}"),
        (with_solved_head(make_record()), "solved head, phase 1"),
        (
            replace(make_record(), refit=RefitRecord(420, ("train", "validation"), 3.0)),
            "retrained from scratch on train + validation (420 images)",
        ),
        (replace(make_record(), history=(), best=None), None),
    ],
    ids=["last", "earlier", "first phase", "steps", "solved", "retrained", "not evaluated"],
)
def test_the_selected_checkpoint_is_named(record: RunRecord, expected: str | None) -> None:
    assert kept_checkpoint(record) == expected


def test_the_lines_of_the_summary() -> None:
    lines = summarize(evaluated(make_record()), Path("out")).splitlines()
    assert lines[:2] == [
        "Test accuracy        92.5% (120 images, 95% CI 82.5–91.5%)",
        "Validation accuracy  94.6% (60 images, 95% CI 83.3–92.3%)",
    ]
    assert lines[2:6] == [
        "Checkpoint           epoch 9 of 9, phase 2",
        "Time                 1 min 52 s, of which training 1 min 38 s",
        "Parameters           25,771 trained, 30,000 frozen",
        "Saved in             out",
    ]
    assert lines[6:10] == [
        "Load it",
        "  hf-tl predict out IMAGE",
        '  transformers.pipeline("image-classification", "out")',
        '  model, transforms = hf_tl.load("out")',
    ]
    assert lines[10:] == ["Publish it", "  hf-tl push out USER/NAME"]
    pushed = summarize(evaluated(make_record()), Path("out"), "https://hub/user/name")
    assert "Published at         https://hub/user/name" in pushed
    assert "Publish it" not in pushed


def test_a_model_that_was_not_evaluated() -> None:
    assert "Test accuracy  not measured\n" in summarize(replace(make_record(), measured={}), Path("out"))
