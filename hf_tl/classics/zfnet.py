"""ZFNet, implemented from its paper."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from hf_tl.classics.interface import FULLY_CONNECTED_CFG, PlainConvNet
from hf_tl.errors import ModelError

__all__ = ["ZFNet"]

FEATURE_INFO = (
    {"num_chs": 96, "reduction": 2, "module": "features.1"},
    {"num_chs": 256, "reduction": 8, "module": "features.5"},
    {"num_chs": 384, "reduction": 16, "module": "features.9"},
    {"num_chs": 384, "reduction": 16, "module": "features.11"},
    {"num_chs": 256, "reduction": 16, "module": "features.13"},
)
"""Five convolutions, each after its activation."""

default_cfgs = generate_default_cfgs(
    {
        "zfnet": FULLY_CONNECTED_CFG
        | {
            "paper_ids": "arXiv:1311.2901",
            "paper_name": "Visualizing and Understanding Convolutional Networks",
        }
    }
)


def _pool() -> nn.MaxPool2d:
    # Sizes are rounded up to match the published ones: 110 to 55, 26 to 13, 13 to 6.
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


def _contrast_normalization() -> nn.LocalResponseNorm:
    # The paper normalizes "across feature maps" and gives no constants. These are from Krizhevsky et al. (2012),
    # section 3.3: n=5, k=2, alpha=1e-4, beta=0.75. PyTorch averages over the n maps where they sum, hence alpha times
    # n.
    return nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0)


class ZFNet(PlainConvNet):
    """The network of Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (arXiv 1311.2901).

    Figure 3 of the paper: at 224 pixels the maps are 110 (7x7 convolution, stride 2), 55 (pooling), 26 (5x5, stride 2),
    13 (pooling), 13, 13, 13 (3x3) and 6 (pooling) pixels wide. Two hidden layers of 4,096 units with dropout follow.
    62,357,608 parameters with 1,000 classes. Weights are initialized with standard deviation 0.01 and biases with 0, as
    in section 3.1. Inputs have shape (N, in_chans, H, W), 224 pixels as published.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.5,
        global_pool: str = "avg",
    ) -> None:
        features = nn.Sequential(
            nn.Conv2d(in_chans, 96, kernel_size=7, stride=2, padding=1),
            nn.ReLU(inplace=True),
            _pool(),
            _contrast_normalization(),
            nn.Conv2d(96, 256, kernel_size=5, stride=2),
            nn.ReLU(inplace=True),
            _pool(),
            _contrast_normalization(),
            nn.Conv2d(256, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            _pool(),
        )
        pre_logits = nn.Sequential(
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
        )
        super().__init__(
            features=features,
            feature_info=[dict(level) for level in FEATURE_INFO],
            grid=6,
            pre_logits=pre_logits,
            hidden_size=4096,
            num_classes=num_classes,
            in_chans=in_chans,
            global_pool=global_pool,
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


@register_model  # type: ignore[untyped-decorator]
def zfnet(pretrained: bool = False, **kwargs: Any) -> ZFNet:
    """Build ZFNet; `kwargs` are passed to `timm.models.build_model_with_cfg` and to `ZFNet`.

    Raises:
        ModelError: `pretrained` is true and no weights file is named; there are no public weights.
    """
    overlay = kwargs.get("pretrained_cfg_overlay")
    source = resolve_pretrained_cfg("zfnet", kwargs.get("pretrained_cfg"), overlay)
    if pretrained and not (source.has_weights or source.state_dict):
        raise ModelError(
            "expected weights for zfnet, found none: its authors published none. Train it from scratch "
            "(pretrained=False), or name a file of your own with pretrained_cfg_overlay={'file': PATH}"
        )
    return build_model_with_cfg(ZFNet, "zfnet", pretrained, feature_cfg={"flatten_sequential": True}, **kwargs)
