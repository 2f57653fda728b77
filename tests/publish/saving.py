"""Saved models for tests: the single place that knows how a run saves its model."""

from dataclasses import replace
from pathlib import Path

from publish.records import of_weights
from transformers import PreTrainedModel

from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.load import preprocessing_of
from hf_tl.data.decoding.images import Transforms
from hf_tl.publish.save import check_reload, commit_model, complete_run
from hf_tl.record import LearnedFrom, RunRecord

LEARNED = LearnedFrom().plus("pets", "train", 2, [b"a" * 32, b"b" * 32])


def save_model(
    model: PreTrainedModel, preprocessing: Preprocessing | Transforms, record: RunRecord, folder: Path
) -> Path:
    """Save a model like a run: write, reload to compare, and complete with card and figures."""
    if isinstance(preprocessing, Transforms):
        preprocessing = preprocessing_of(model, preprocessing)
    trained = replace(record, status="trained", measured={}, temperature=None)
    digest = commit_model(model, preprocessing, trained, LEARNED, folder).weights_digest
    check_reload(model, preprocessing, folder)
    complete_run(of_weights(record, str(digest)), folder)
    return folder
