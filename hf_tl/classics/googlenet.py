"""GoogLeNet (Inception V1), based on torchvision's implementation and weights."""

import logging
from typing import Any

import torchvision
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import create_classifier, get_device_dtype
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from hf_tl.classics.interface import IMAGENET_CFG, SequentialBackbone, with_input_channels

__all__ = ["GoogLeNet"]

logger = logging.getLogger(__name__)

LAYERS = (
    "conv1",
    "maxpool1",
    "conv2",
    "conv3",
    "maxpool2",
    "inception3a",
    "inception3b",
    "maxpool3",
    "inception4a",
    "inception4b",
    "inception4c",
    "inception4d",
    "inception4e",
    "maxpool4",
    "inception5a",
    "inception5b",
)

FEATURE_INFO = (
    {"num_chs": 192, "reduction": 4, "module": "conv3"},
    {"num_chs": 480, "reduction": 8, "module": "inception3b"},
    {"num_chs": 832, "reduction": 16, "module": "inception4e"},
    {"num_chs": 1024, "reduction": 32, "module": "inception5b"},
)
"""Feature levels: the stem (three convolutions), then the Inception blocks by resolution."""

AUXILIARY_HEADS = ("aux1.", "aux2.")
"""Starts of the names of the auxiliary heads' weights in torchvision's files."""

PRETRAINED_CFG = IMAGENET_CFG | {
    "url": torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1.url,
    "min_input_size": (3, 15, 15),
    "pool_size": (7, 7),
    # torchvision normalizes by ImageNet's mean and standard deviation; `transform_input` in the network then converts
    # that to (image - 0.5) / 0.5. Here both are one step of the preprocessing, so the network accepts any number of
    # channels.
    "mean": IMAGENET_INCEPTION_MEAN,
    "std": IMAGENET_INCEPTION_STD,
    "first_conv": "conv1.conv",
    "classifier": "fc",
    "license": "bsd-3-clause",
    "origin_url": "https://github.com/pytorch/vision",
    "paper_ids": "arXiv:1409.4842",
    "paper_name": "Going Deeper with Convolutions",
}
default_cfgs = generate_default_cfgs({"googlenet.tv_in1k": PRETRAINED_CFG, "inception_v1.tv_in1k": PRETRAINED_CFG})


class GoogLeNet(SequentialBackbone):
    """torchvision's GoogLeNet (Szegedy et al., arXiv 1409.4842; with batch normalization) with timm's interface.

    6,624,904 parameters with 1,000 classes. Inputs have shape (N, in_chans, H, W), 224 pixels as published.

    The paper's auxiliary heads, whose losses help training from scratch, are left out.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.2,
        global_pool: str = "avg",
    ) -> None:
        super().__init__(LAYERS, [dict(level) for level in FEATURE_INFO], num_features=1024, in_chans=in_chans)
        reference = torchvision.models.GoogLeNet(num_classes=1, aux_logits=False, init_weights=True)
        reference.conv1.conv = with_input_channels(reference.conv1.conv, in_chans)
        for name in LAYERS:
            setattr(self, name, getattr(reference, name))
        self.global_pool, self.head_drop, self.fc = create_classifier(1024, 0, global_pool, drop_rate=drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """Return the classifier layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, or remove it if `num_classes` is 0."""
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool, **get_device_dtype(self))
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's parameter groups: stem and blocks; `coarse` merges the blocks of one resolution."""
        blocks = [name for name in self.layer_names if name.startswith("inception")]
        each = [(rf"^{name}\.", (order,)) for order, name in enumerate(blocks)]
        return {"stem": r"^conv\d\.", "blocks": r"^inception(\d)" if coarse else each}

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features (N, 1024, h, w) to logits (N, num_classes), or with `pre_logits` to (N, head_hidden_size)."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: GoogLeNet) -> dict[str, Tensor]:
    """Drop the auxiliary heads of torchvision's weights, which serve only training from scratch; log that."""
    weights = {name: tensor for name, tensor in state_dict.items() if not name.startswith(AUXILIARY_HEADS)}
    if dropped := len(state_dict) - len(weights):
        logger.info("Dropping the auxiliary heads of the GoogLeNet weights (%d tensors): the model has none", dropped)
    return weights


def _create_googlenet(variant: str, pretrained: bool, **kwargs: Any) -> GoogLeNet:
    # configs that earlier versions saved may name it; the auxiliary heads themselves were never saved
    kwargs.pop("aux_logits", None)
    return build_model_with_cfg(
        GoogLeNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": tuple(range(len(FEATURE_INFO)))},
        pretrained_filter_fn=checkpoint_filter_fn,
        **kwargs,
    )


@register_model  # type: ignore[untyped-decorator]
def googlenet(pretrained: bool = False, **kwargs: Any) -> GoogLeNet:
    """Build GoogLeNet; `kwargs` are passed to `timm.models.build_model_with_cfg` and to `GoogLeNet`."""
    return _create_googlenet("googlenet", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def inception_v1(pretrained: bool = False, **kwargs: Any) -> GoogLeNet:
    """Build GoogLeNet under its other name."""
    return _create_googlenet("inception_v1", pretrained, **kwargs)
