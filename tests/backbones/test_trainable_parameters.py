"""Selection of stages and parameters by number, name and pattern."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tl.backbones.stages.stage import Stage, trainable_parameters
from hf_tl.errors import StageError

STAGES = tuple(
    Stage(name, (f"{name}.conv.weight", f"{name}.bn.weight"), (), (name,))
    for name in ("stem", "layer1", "layer2", "layer3", "head")
)


@pytest.mark.parametrize(
    ("trainable_stages", "expected"),
    [
        (1, ["head"]),
        (3, ["layer2", "layer3", "head"]),
        (5, ["stem", "layer1", "layer2", "layer3", "head"]),
        ("all", ["stem", "layer1", "layer2", "layer3", "head"]),
        ("layer2", ["layer2", "layer3", "head"]),
        ("head", ["head"]),
        (("stem", "layer2"), ["stem", "layer2", "head"]),
        (("head",), ["head"]),
        (r"re:^layer[12]\.bn", ["layer1", "layer2", "head"]),
    ],
)
def test_stages_with_trained_parameters(trainable_stages: Any, expected: list[str]) -> None:
    trained = trainable_parameters(STAGES, trainable_stages)
    assert [stage.name for stage in STAGES if not trained.isdisjoint(stage.parameter_names)] == expected


def test_pattern_selects_parameters() -> None:
    assert trainable_parameters(STAGES, "re:bn") == {
        *(f"{name}.bn.weight" for name in ("stem", "layer1", "layer2", "layer3")),
        *("head.conv.weight", "head.bn.weight"),
    }


@pytest.mark.parametrize(
    ("trainable_stages", "message"),
    [
        (0, "expected 1 to 5 trainable stages (trainable_stages), found 0; the stages are stem, layer1"),
        (6, "expected 1 to 5 trainable stages (trainable_stages), found 6"),
        ("layer7", "there is no stage layer7 (trainable_stages); the stages are stem, layer1, layer2, layer3, head"),
        (("stem", "a", "b"), "there is no stage a, b (trainable_stages)"),
        ("re:nothing", "no parameter of the backbone matches 'nothing' (trainable_stages); its names are stem.conv"),
        ("re:(", "'(' (trainable_stages) is not a regular expression: missing )"),
    ],
)
def test_unknown_stages_are_errors(trainable_stages: Any, message: str) -> None:
    with pytest.raises(StageError, match=re.escape(message)):
        trainable_parameters(STAGES, trainable_stages)


@given(k=st.integers(1, 5), chosen=st.sets(st.sampled_from([stage.name for stage in STAGES]), min_size=1))
def test_every_selection_is_of_whole_stages_with_the_head(k: int, chosen: set[str]) -> None:
    assert trainable_parameters(STAGES, k) == trainable_parameters(STAGES, STAGES[-k].name)
    trained = {name for stage in STAGES if stage.name in {*chosen, "head"} for name in stage.parameter_names}
    assert trainable_parameters(STAGES, tuple(chosen)) == trained
