"""timm's model interface for networks whose layers run in sequence."""

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import get_device_dtype
from timm.models import adapt_input_conv, checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from hf_tl.errors import ModelError

IMAGENET_CFG: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "num_classes": 1000,
}
"""Settings that the default_cfgs of all classics share."""
FULLY_CONNECTED_CFG: dict[str, Any] = IMAGENET_CFG | {
    "min_input_size": (3, 63, 63),
    "pool_size": (6, 6),
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "features.0",
    "classifier": "head",
}
"""Settings that the default_cfgs of `PlainConvNet` share."""


def with_input_channels(conv: nn.Conv2d, in_chans: int) -> nn.Conv2d:
    """Return `conv` for `in_chans` input channels, with its weights adapted as timm adapts pretrained ones."""
    if in_chans == conv.in_channels:
        return conv
    adapted = copy.deepcopy(conv)
    adapted.in_channels = in_chans
    adapted.weight = nn.Parameter(adapt_input_conv(in_chans, conv.weight.detach()))
    return adapted


class SequentialBackbone(nn.Module):
    """Backbone whose layers run in sequence, with timm's interface.

    `forward`, `forward_features` and `forward_head` can be scripted (`torch.jit.script`) and traced (`torch.fx`).

    Args:
        layer_names: Module names of the layers, in the order in which they run.
        feature_info: For each feature level, `num_chs`, `reduction` (stride in input pixels) and `module`, the last
            layer of the level.
        num_features: Number of channels of the output of `forward_features`.
        in_chans: Number of input channels.
    """

    def __init__(
        self, layer_names: Sequence[str], feature_info: list[dict[str, Any]], num_features: int, in_chans: int
    ) -> None:
        super().__init__()
        self.layer_names = tuple(layer_names)
        self.feature_children = list(dict.fromkeys(name.partition(".")[0] for name in layer_names))
        self.feature_info = feature_info
        self.num_features = num_features
        self.in_chans = in_chans
        self.grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of each feature level in the backward pass instead of storing them."""
        self.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (N, in_chans, H, W) to features (N, num_features, h, w)."""
        if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._run(x, self.layer_names)[0]
        # TorchScript unrolls a loop over children, but cannot look up a layer by its name, as `_run` does
        for name, layer in self.named_children():
            if name in self.feature_children:
                x = layer(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the features of chosen levels for images (N, in_chans, H, W), as timm's models do.

        Args:
            x: Images.
            indices: Levels of `feature_info`; a number n selects the last n levels (default: all).
            norm: No effect, because there is no final norm.
            stop_early: Whether to stop after the last chosen level.
            output_fmt: Output format; only "NCHW" is supported.
            intermediates_only: Whether to return only the list of features.

        Raises:
            ModelError: `output_fmt` is not "NCHW".
        """
        if output_fmt != "NCHW":
            raise ModelError(f"expected output_fmt 'NCHW', found {output_fmt!r}: convolutional features have no other")
        take, last = feature_take_indices(len(self.feature_info), indices)
        taps = [self.feature_info[i]["module"] for i in take]
        stop = self.layer_names.index(self.feature_info[last]["module"]) + 1 if stop_early else None
        x, outputs = self._run(x, self.layer_names[:stop], taps)
        intermediates = [outputs[tap] for tap in taps]
        return intermediates if intermediates_only else (x, intermediates)

    def _run(self, x: Tensor, names: Sequence[str], taps: Collection[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the named layers on `x`; return the output of the last one, and the outputs of `taps` by name.

        Checkpointed segments end with a feature level (or a tap), so that no segment starts with an in-place
        activation. That would overwrite the input from which the segment is recomputed.
        """
        outputs: dict[str, Tensor] = {}
        ends = {names[-1], *taps, *(info["module"] for info in self.feature_info)}
        segment: list[nn.Module] = []
        for name in names:
            segment.append(self.get_submodule(name))
            if name in ends:
                x = self._run_segment(x, segment)
                segment = []
            if name in taps:
                outputs[name] = x
        return x, outputs

    def _run_segment(self, x: Tensor, segment: list[nn.Module]) -> Tensor:
        def run(x: Tensor) -> Tensor:
            for layer in segment:
                x = layer(x)
            return x

        return checkpoint(run, x) if self.grad_checkpointing and self.training else run(x)


class PlainConvNet(SequentialBackbone):
    """Convolutions, hidden fully connected layers and a classifier, as in AlexNet and ZFNet.

    Modules, in the order in which they run: `features` (convolutions), `pool` (average pooling to a fixed grid, then
    flattening), `pre_logits` (hidden fully connected layers), `head` (classifier).

    Args:
        features: Convolutions, with the layers between them.
        feature_info: As in `SequentialBackbone`; `module` names are `features.N`.
        grid: Height and width of the input of the fully connected layers. Pooling to this grid is the identity at the
            published input size, and adapts other sizes.
        pre_logits: Hidden fully connected layers: (N, num_features * grid * grid) to (N, hidden_size).
        hidden_size: Width of the last hidden layer.
        num_classes: Width of the classifier; 0 for none.
        in_chans: Number of input channels.
        global_pool: "avg", or "" with `num_classes` 0 for a model that returns unpooled features.
    """

    def __init__(
        self,
        features: nn.Sequential,
        feature_info: list[dict[str, Any]],
        grid: int,
        pre_logits: nn.Sequential,
        hidden_size: int,
        num_classes: int,
        in_chans: int,
        global_pool: str,
    ) -> None:
        layer_names = [f"features.{name}" for name, _ in features.named_children()]
        super().__init__(layer_names, feature_info, feature_info[-1]["num_chs"], in_chans)
        self.hidden_size = hidden_size
        self.features = features
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten(1))
        self.pre_logits = pre_logits
        self.has_pooling = True
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """Return the classifier layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, or remove it if `num_classes` is 0.

        Without a classifier, `forward` returns hidden features (N, head_hidden_size) with `global_pool` "avg", and
        unpooled features (N, num_features, h, w) with "". Hidden layers are kept, so that "avg" restores them.

        Args:
            num_classes: Width of the classifier; 0 for none.
            global_pool: "avg" or "" (default: unchanged).

        Raises:
            ModelError: `global_pool` is another pooling, or "" with a classifier: the fully connected layers require a
                fixed grid.
        """
        pool = ("avg" if self.has_pooling else "") if global_pool is None else global_pool
        if pool not in ("avg", "") or (num_classes and not pool):
            raise ModelError(
                f"expected global_pool 'avg' (the fully connected layers take a fixed grid), found {pool!r} for "
                f"{num_classes} classes; for unpooled features call reset_classifier(0, '') or forward_features"
            )
        self.num_classes = num_classes
        self.has_pooling = bool(pool)
        self.head_hidden_size = self.hidden_size if pool else self.num_features
        head = nn.Linear(self.head_hidden_size, num_classes, **get_device_dtype(self)) if num_classes else nn.Identity()
        self.head = head.train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's parameter groups: each layer; `coarse` merges all convolutions after the first."""
        blocks = r"^features\." if coarse else r"^features\.(\d+)"
        hidden = r"^pre_logits\." if coarse else r"^pre_logits\.(\d+)"
        return {"stem": r"^features\.0\.", "blocks": blocks, "pre_logits": hidden}

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features (N, num_features, h, w) to logits (N, num_classes), or with `pre_logits` to hidden features."""
        if self.has_pooling:
            x = self.pre_logits(self.pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))
