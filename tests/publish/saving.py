"""Saved models for tests: the one place that knows how a run saves its model."""

from pathlib import Path

from transformers import PreTrainedModel

from hf_tl.backbones.load import preprocessing_of
from hf_tl.backbones.preprocessing import Preprocessing
from hf_tl.data.images import Transforms
from hf_tl.publish.save import save_run
from hf_tl.record import RunRecord


def save_model(
    model: PreTrainedModel, preprocessing: Preprocessing | Transforms, record: RunRecord, folder: Path
) -> Path:
    """Save a model with its record, card and figures."""
    if isinstance(preprocessing, Transforms):
        preprocessing = preprocessing_of(model, preprocessing)
    return save_run(model, preprocessing, record, folder)
