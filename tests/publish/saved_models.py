"""Models of several kinds, saved for tests."""

from pathlib import Path

import torch
from backbones.checkpoints import save_timm, save_transformers, timm_network, tiny_resnet, tiny_vit
from publish.records import make_record
from publish.saving import save_model
from torch import nn
from transformers import PreTrainedModel

from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.load import load_backbone, preprocessing_of
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.card.figures.training import HISTORY_FIGURE, STAGES_FIGURE
from hf_tl.record import RunRecord
from hf_tl.record.learned import LEARNED_FILE
from hf_tl.strategy import Strategy

CANARY = "canary_home_of_somebody"

LABELS = {
    "unsorted": ("zebra", "ant", "moth"),
    "numbers": ("10", "9", "007"),
    "unicode": ("größe", "日本 🐶", 'a "quoted"\nname'),
    "generic": ("LABEL_2", "LABEL_0", "LABEL_1"),
}

KINDS = ("timm", "timm gray", "timm size", "timm folder", "vit", "resnet")

FILES = {"config.json", "model.safetensors", "README.md", "run.json", LEARNED_FILE, HISTORY_FIGURE, STAGES_FIGURE}


def build(
    kind: str, folder: Path, labels: tuple[str, ...] = LABELS["unsorted"]
) -> tuple[PreTrainedModel, Preprocessing]:
    """Return a model for `labels`, like load_backbone; transformers models come from a folder with a known name."""
    torch.manual_seed(0)
    home = folder / CANARY
    match kind:
        case "timm":
            name, options = "timm:test_resnet", {"pretrained": False}
        case "timm gray":
            name, options = "timm:test_resnet", {"pretrained": False, "in_chans": 1}
        case "timm size":
            name, options = "timm:test_vit_relpos", {"pretrained": False, "image_size": 64}
        case "timm folder":
            name, options = str(save_timm(timm_network(), home)), {}
        case "vit":
            name, options = str(save_transformers(tiny_vit(), home)), {}
        case "resnet":
            name, options = str(save_transformers(tiny_resnet(), home)), {}
    model, transforms = load_backbone(name, labels, Strategy.transfer(), **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model, preprocessing_of(model, transforms)


def record_of(model: PreTrainedModel, labels: tuple[str, ...]) -> RunRecord:
    """Return the record of a fine-tuning of the last stage and the head."""
    return make_record(tuple(stage.name for stage in list_stages(model)), labels)


def saved(kind: str, folder: Path, labels: tuple[str, ...] = LABELS["unsorted"]) -> tuple[Path, PreTrainedModel]:
    model, preprocessing = build(kind, folder, labels)
    return save_model(model, preprocessing, record_of(model, labels), folder / "out"), model
