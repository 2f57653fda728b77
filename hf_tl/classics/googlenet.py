"""GoogLeNet (Inception V1), based on torchvision's implementation and weights."""

from collections.abc import Callable
from typing import Any

import torchvision
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import create_classifier, get_device_dtype
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models.googlenet import GoogLeNetOutputs, InceptionAux

from hf_tl.classics.interface import SequentialBackbone, with_input_channels
from hf_tl.errors import ModelError

__all__ = ["GoogLeNet"]

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

AUX_TAPS = {"aux1": "inception4a", "aux2": "inception4d"}
"""Auxiliary heads, and the layers whose output they classify."""

PRETRAINED_CFG = {
    "url": torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1.url,
    "input_size": (3, 224, 224),
    "min_input_size": (3, 15, 15),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    # torchvision normalizes by ImageNet's mean and standard deviation; `transform_input` in the network then converts
    # that to (image - 0.5) / 0.5. Here both are one step of the preprocessing, so the network accepts any number of
    # channels.
    "mean": IMAGENET_INCEPTION_MEAN,
    "std": IMAGENET_INCEPTION_STD,
    "num_classes": 1000,
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

    Auxiliary heads: the paper trains two more classifiers, on `inception4a` and `inception4d`, and adds their losses
    with weight 0.3. They matter only for training from scratch, so they exist only with `aux_logits=True`. `forward`
    still returns one tensor, so that any training loop works. A loop that uses the auxiliary losses requests the logits
    with `return_aux=True`, which passes through DistributedDataParallel and transformers' wrapper:

    ```python
    model = timm.create_model("googlenet", aux_logits=True)
    loss = auxiliary_loss(model(images, return_aux=True), labels)
    ```

    The auxiliary heads are not saved: `state_dict()` omits them, and loading does not report them as missing (existing
    heads keep their values), so a checkpoint has the same tensors with and without them. Training resumed from a
    checkpoint starts with new auxiliary heads.
    """

    aux1: InceptionAux | None
    aux2: InceptionAux | None

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.2,
        global_pool: str = "avg",
        aux_logits: bool = False,
    ) -> None:
        super().__init__(LAYERS, [dict(level) for level in FEATURE_INFO], num_features=1024, in_chans=in_chans)
        reference = torchvision.models.GoogLeNet(num_classes=1, aux_logits=aux_logits, init_weights=True)
        reference.conv1.conv = with_input_channels(reference.conv1.conv, in_chans)
        for name in (*LAYERS, "aux1", "aux2"):
            setattr(self, name, getattr(reference, name))
        self.global_pool, self.head_drop, self.fc = create_classifier(1024, 0, global_pool, drop_rate=drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self.register_state_dict_post_hook(_leave_out_aux)
        self.register_load_state_dict_post_hook(_do_not_miss_aux)

    def get_classifier(self) -> nn.Module:
        """Return the classifier layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier (and those of the auxiliary heads), or remove it if `num_classes` is 0."""
        device_dtype = get_device_dtype(self)
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool, **device_dtype)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)
        for aux in (self.aux1, self.aux2):
            if aux is not None:
                aux.fc2 = nn.Linear(1024, num_classes, **device_dtype) if num_classes > 0 else nn.Identity()
                aux.fc2.train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's parameter groups: stem and blocks; `coarse` merges the blocks of one resolution.

        The auxiliary heads are in the last group, with the classifier.
        """
        blocks = [name for name in self.layer_names if name.startswith("inception")]
        each = [(rf"^{name}\.", (order,)) for order, name in enumerate(blocks)]
        return {"stem": r"^conv\d\.", "blocks": r"^inception(\d)" if coarse else each}

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features (N, 1024, h, w) to logits (N, num_classes), or with `pre_logits` to (N, head_hidden_size)."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor, return_aux: bool = False) -> Tensor | GoogLeNetOutputs:
        """Map images (N, in_chans, H, W) to logits (N, num_classes).

        With `return_aux`, return torchvision's named tuple `(logits, aux_logits2, aux_logits1)`, each (N, num_classes).

        Raises:
            ModelError: `return_aux` is true and the model was built without auxiliary heads.
        """
        if not return_aux:
            return self.forward_head(self.forward_features(x))
        if self.aux1 is None:
            raise ModelError("return_aux=True needs the auxiliary heads, and the model has none: use aux_logits=True")
        x, outputs = self._run(x, self.layer_names, AUX_TAPS.values())
        aux1, aux2 = (self.get_submodule(name)(outputs[tap]) for name, tap in AUX_TAPS.items())
        return GoogLeNetOutputs(self.forward_head(x), aux2, aux1)


def _is_aux(name: str) -> bool:
    return not AUX_TAPS.keys().isdisjoint(name.split("."))


def _leave_out_aux(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    # Tensors on the meta device stay listed: there is nothing to save, and loaders read from them what the model needs.
    for name in [name for name in state_dict if name.startswith(prefix) and _is_aux(name.removeprefix(prefix))]:
        if not state_dict[name].is_meta:
            del state_dict[name]


def _do_not_miss_aux(module: nn.Module, incompatible_keys: Any) -> None:
    missing = incompatible_keys.missing_keys
    missing[:] = [name for name in missing if not _is_aux(name)]


def auxiliary_loss(
    outputs: GoogLeNetOutputs,
    labels: Tensor,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    weight: float = 0.3,
) -> Tensor:
    """Compute the training loss of GoogLeNet with its auxiliary heads (arXiv 1409.4842, section 5).

    Args:
        outputs: Output of the model with `return_aux=True`: three tensors of shape (N, num_classes).
        labels: Class indices of shape (N,), or whatever `criterion` takes.
        criterion: Loss of one classifier.
        weight: Weight of the loss of each auxiliary classifier (default: 0.3, as in the paper).

    Returns:
        Scalar loss.
    """
    main, *auxiliary = (criterion(logits, labels) for logits in outputs)
    return main + weight * sum(auxiliary)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: GoogLeNet) -> dict[str, Tensor]:
    """Drop auxiliary heads that the model lacks, or has with another number of classes, from torchvision's weights.

    torchvision's own auxiliary heads are not trained (it warns so); those of a model trained with them are.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    fits = {name for name, tensor in state_dict.items() if name in own and own[name].shape == tensor.shape}
    return {name: tensor for name, tensor in state_dict.items() if name in fits or not _is_aux(name)}


def _create_googlenet(variant: str, pretrained: bool, **kwargs: Any) -> GoogLeNet:
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
