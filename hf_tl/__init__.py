"""Transfer learning and fine-tuning of image classifiers for the Hugging Face ecosystem.

The public names are imported when they are first used, so that `import hf_tl` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tl.advisor.recommend import recommend
    from hf_tl.advisor.recommendation import Recommendation
    from hf_tl.backbones.candidates import Backbone
    from hf_tl.backbones.load import load, load_backbone
    from hf_tl.backbones.stages.freezing import freeze
    from hf_tl.backbones.stages.stage import Stage, list_stages
    from hf_tl.comparison.compare import Comparison, compare
    from hf_tl.data.datasets import load_data
    from hf_tl.data.decoding.images import collate
    from hf_tl.errors import HfTlError
    from hf_tl.exporting.export import export
    from hf_tl.exporting.result import ExportResult
    from hf_tl.hub.fetch import pull
    from hf_tl.hub.hub import push
    from hf_tl.inspection.inspect import inspect
    from hf_tl.inspection.result import Inspection
    from hf_tl.job.job import RunResult
    from hf_tl.predicting.calibrate import calibrate
    from hf_tl.predicting.evaluate import Evaluation, evaluate
    from hf_tl.predicting.predict import predict
    from hf_tl.predicting.result import PredictionResult
    from hf_tl.run import train
    from hf_tl.strategy import Phase, Strategy
    from hf_tl.trainer.callback import StrategyCallback
    from hf_tl.trainer.safeguards import newest_checkpoint
    from hf_tl.trainer.trainer import StrategyTrainer
    from hf_tl.tuning import LoRA
    from hf_tl.views.views import TrainingViews

__version__ = "0.1.0"

_HOMES = {
    "Backbone": "hf_tl.backbones.candidates",
    "Comparison": "hf_tl.comparison.compare",
    "Evaluation": "hf_tl.predicting.evaluate",
    "ExportResult": "hf_tl.exporting.result",
    "HfTlError": "hf_tl.errors",
    "Inspection": "hf_tl.inspection.result",
    "LoRA": "hf_tl.tuning",
    "Phase": "hf_tl.strategy",
    "PredictionResult": "hf_tl.predicting.result",
    "Recommendation": "hf_tl.advisor.recommendation",
    "RunResult": "hf_tl.job.job",
    "Stage": "hf_tl.backbones.stages.stage",
    "Strategy": "hf_tl.strategy",
    "StrategyCallback": "hf_tl.trainer.callback",
    "StrategyTrainer": "hf_tl.trainer.trainer",
    "TrainingViews": "hf_tl.views.views",
    "calibrate": "hf_tl.predicting.calibrate",
    "evaluate": "hf_tl.predicting.evaluate",
    "export": "hf_tl.exporting.export",
    "inspect": "hf_tl.inspection.inspect",
    "freeze": "hf_tl.backbones.stages.freezing",
    "list_stages": "hf_tl.backbones.stages.stage",
    "load": "hf_tl.backbones.load",
    "load_backbone": "hf_tl.backbones.load",
    "collate": "hf_tl.data.decoding.images",
    "compare": "hf_tl.comparison.compare",
    "load_data": "hf_tl.data.datasets",
    "newest_checkpoint": "hf_tl.trainer.safeguards",
    "pull": "hf_tl.hub.fetch",
    "predict": "hf_tl.predicting.predict",
    "push": "hf_tl.hub.hub",
    "recommend": "hf_tl.advisor.recommend",
    "train": "hf_tl.run",
}

__all__ = [
    "Backbone",
    "Comparison",
    "Evaluation",
    "ExportResult",
    "HfTlError",
    "Inspection",
    "LoRA",
    "Phase",
    "PredictionResult",
    "Recommendation",
    "RunResult",
    "Stage",
    "Strategy",
    "StrategyCallback",
    "StrategyTrainer",
    "TrainingViews",
    "calibrate",
    "collate",
    "compare",
    "evaluate",
    "export",
    "freeze",
    "inspect",
    "list_stages",
    "load",
    "load_backbone",
    "load_data",
    "newest_checkpoint",
    "predict",
    "pull",
    "push",
    "recommend",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_tl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
