"""Typed record of a run: origin of the weights, their training images, the training and its results.

The package imports only `errors`, `phase` and `strategy`, so that every other package may import it.
"""

from hf_tl.record.abstention import AbstentionMeasured, AbstentionRecord
from hf_tl.record.inspection import InspectionRecord
from hf_tl.record.interpolation import InterpolationPoint, InterpolationRecord
from hf_tl.record.learned import LearnedFrom, LearnedSplit, split_digest
from hf_tl.record.origin import Origin
from hf_tl.record.parts import (
    CardTexts,
    DataRecord,
    FrozenProof,
    GroupRecord,
    HeadRecord,
    LayerRecord,
    Measured,
    ModelRecord,
    PhaseRecord,
    PlainMeasured,
    Preprocessed,
    RefitRecord,
    Seconds,
    SplitRecord,
    StageRecord,
    Temperature,
    TextHeadRecord,
    ZeroShot,
)
from hf_tl.record.robustness import CorruptedMetrics, Robustness
from hf_tl.record.run import RECORD_FILE, SCHEMA_VERSION, RunRecord, read_record, read_record_file, write_record
from hf_tl.record.teacher import TeacherRecord

__all__ = [
    "RECORD_FILE",
    "SCHEMA_VERSION",
    "AbstentionMeasured",
    "AbstentionRecord",
    "CardTexts",
    "CorruptedMetrics",
    "DataRecord",
    "FrozenProof",
    "GroupRecord",
    "HeadRecord",
    "InspectionRecord",
    "InterpolationPoint",
    "InterpolationRecord",
    "LayerRecord",
    "LearnedFrom",
    "LearnedSplit",
    "Measured",
    "ModelRecord",
    "Origin",
    "PhaseRecord",
    "PlainMeasured",
    "Preprocessed",
    "RefitRecord",
    "Robustness",
    "RunRecord",
    "Seconds",
    "SplitRecord",
    "StageRecord",
    "TeacherRecord",
    "Temperature",
    "TextHeadRecord",
    "ZeroShot",
    "read_record",
    "read_record_file",
    "split_digest",
    "write_record",
]
