"""Mutated recommendations: each is followed or refused by name."""

import json
import shutil
from pathlib import Path

import pytest
from accelerate import Accelerator
from auto.inputs import Inputs
from fuzzing.mutations import mutate_json
from fuzzing.reading import PARTS, fuzz
from parts import parts

import hf_tl
from hf_tl.advisor.advice import take_advice
from hf_tl.advisor.recommendation import RECORD
from hf_tl.backbones.candidates import candidates
from hf_tl.flags import parse_run_config


@pytest.mark.parametrize("part", parts(PARTS))
def test_mutated_recommendations_are_followed_or_refused(
    inputs: Inputs, recommended: Path, tmp_path: Path, part: int
) -> None:
    advice = tmp_path / "advice"
    shutil.copytree(recommended, advice)
    config = parse_run_config([*inputs.flags(), "--recommendation", str(advice)])
    data, backbones = hf_tl.load_data(inputs.images), candidates(config.model)
    accelerator = Accelerator(cpu=True)

    def read() -> None:
        taken = take_advice(accelerator, data, backbones, config, str(tmp_path / "out"))
        assert taken.candidate in backbones
        assert json.dumps(taken.record, allow_nan=False)

    fuzz(advice / RECORD, mutate_json, read, part, names=str(advice))
