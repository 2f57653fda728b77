"""Pooling of a timm vision transformer's tokens, as the pretraining of its weights suggests."""

import torch

from hf_tl.backbones.weights.pretraining import timm_method


def pooling_args(weights: str, classes: int) -> dict[str, str]:
    """Return the arguments of `timm.create_model` that pool what the pretraining trained.

    A class token that the loss of the pretraining compares describes an image better than the mean of its patches,
    which timm uses for DINOv3. timm cannot join the two, as the authors of DINOv2 and DINOv3 and transformers' classes
    do. Where the loss has no class token, and for weights with a classifier, timm's own pooling stays.

    Args:
        weights: `ARCHITECTURE.TAG`.
        classes: Number of classes of the weights; 0 without a classifier.

    >>> pooling_args("vit_small_patch16_dinov3.lvd1689m", classes=0)
    {'global_pool': 'token'}
    >>> pooling_args("vit_base_patch16_224.mae", classes=0)
    {}
    """
    import timm

    method = timm_method(weights)
    if classes or method is None or not method.trains_class_token:
        return {}
    with torch.device("meta"):
        network = timm.create_model(weights.partition(".")[0])
    has_class_token = getattr(network, "cls_token", None) is not None
    return {"global_pool": "token"} if has_class_token and network.global_pool == "avg" else {}
