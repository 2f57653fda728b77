"""Opening of a classifier to evaluate, of every kind."""

import os

from hf_tl.evaluation.holdout.classifier import AnyModel, Classifier
from hf_tl.evaluation.holdout.exported import ExportedClassifier
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.runtime.exported import exported_file


def load_classifier(model: AnyModel) -> Classifier:
    """Open an exported model in its own runtime, or load any other in torch.

    Args:
        model: Folder of a saved model, Hub id, `RunResult`, a loaded model, or the folder or file of an exported model.

    Raises:
        ConfigError: The runtime of an exported model is not installed.
        ModelError: There is no such model, or it cannot be used.
    """
    if isinstance(model, str | os.PathLike) and (file := exported_file(model)) is not None:
        return ExportedClassifier.open(file)
    return LoadedClassifier.load(model)
