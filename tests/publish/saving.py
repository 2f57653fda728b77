"""Saved models for tests: the one place that knows how a run saves its model."""

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from hf_tl.backbones.load import preprocessing_of
from hf_tl.backbones.preprocessing import Preprocessing
from hf_tl.data.images import Transforms
from hf_tl.publish.save import commit_model, complete_run
from hf_tl.record import LearnedFrom, RunRecord


def save_model(
    model: PreTrainedModel, preprocessing: Preprocessing | Transforms, record: RunRecord, folder: Path
) -> Path:
    """Save a model with its record, card and figures."""
    if isinstance(preprocessing, Transforms):
        preprocessing = preprocessing_of(model, preprocessing)
    begun = replace(record, measured={}, temperature=None)
    weights = commit_model(model, preprocessing, begun, LearnedFrom(), folder).weights_digest
    measured = {split: replace(one, weights_digest=weights) for split, one in record.measured.items()}
    temperature = record.temperature and replace(record.temperature, weights_digest=weights)
    complete_run(replace(record, weights_digest=weights, measured=measured, temperature=temperature), folder)
    return folder
