"""AlexNet, based on torchvision's implementation and weights."""

from typing import Any

import torchvision
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor

from hf_tl.classics.interface import FULLY_CONNECTED_CFG, PlainConvNet, with_input_channels

__all__ = ["AlexNet"]

FEATURE_INFO = (
    {"num_chs": 64, "reduction": 4, "module": "features.1"},
    {"num_chs": 192, "reduction": 8, "module": "features.4"},
    {"num_chs": 384, "reduction": 16, "module": "features.7"},
    {"num_chs": 256, "reduction": 16, "module": "features.9"},
    {"num_chs": 256, "reduction": 16, "module": "features.11"},
)
"""Five convolutions, each after its activation: the levels whose transfer Yosinski et al. (2014) measure."""

default_cfgs = generate_default_cfgs(
    {
        "alexnet.tv_in1k": FULLY_CONNECTED_CFG
        | {
            "url": torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url,
            "license": "bsd-3-clause",
            "origin_url": "https://github.com/pytorch/vision",
            "paper_ids": "arXiv:1404.5997",
            "paper_name": "One weird trick for parallelizing convolutional neural networks",
        }
    }
)


class AlexNet(PlainConvNet):
    """torchvision's AlexNet with timm's interface.

    The network of Krizhevsky, Sutskever and Hinton (NeurIPS 2012) in the single-column variant of Krizhevsky (2014,
    arXiv 1404.5997): 64 first-layer maps, no local response normalization, 61,100,840 parameters with 1,000 classes.
    Inputs have shape (N, in_chans, H, W) with H and W of at least 63 pixels (224 as published).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        global_pool: str = "avg",
    ) -> None:
        reference = torchvision.models.AlexNet(num_classes=1, dropout=drop_rate)
        reference.features[0] = with_input_channels(reference.features[0], in_chans)
        super().__init__(
            features=reference.features,
            feature_info=[dict(level) for level in FEATURE_INFO],
            grid=6,
            pre_logits=reference.classifier[:-1],
            hidden_size=4096,
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
        )


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: AlexNet) -> dict[str, Tensor]:
    """Rename torchvision's keys; other keys are unchanged."""
    return {
        name.replace("classifier.6.", "head.").replace("classifier.", "pre_logits."): tensor
        for name, tensor in state_dict.items()
    }


@register_model  # type: ignore[untyped-decorator]
def alexnet(pretrained: bool = False, **kwargs: Any) -> AlexNet:
    """Build AlexNet; `kwargs` are passed to `timm.models.build_model_with_cfg` and to `AlexNet`."""
    return build_model_with_cfg(
        AlexNet,
        "alexnet",
        pretrained,
        feature_cfg={"flatten_sequential": True},
        pretrained_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )
