"""Pretraining of published weights, by the names that timm and the authors give them.

timm names weights `ARCHITECTURE.TAG`. A tag lists the steps of a training: `augreg_in21k_ft_in1k` was trained on the
labels of ImageNet-21k and fine-tuned (`ft`) on those of ImageNet-1k. `METHODS` names the methods that learn without
class labels. What neither the table nor the labels of ImageNet explain is unknown.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

SUPERVISED = "supervised"
THEN_SUPERVISED = ", then supervised"
_LABELED = frozenset(("in1k", "in12k", "in21k", "in22k"))
"""Words in tags of timm for data with class labels: ImageNet-1k, and parts of the full ImageNet."""
_NOT_LABELED = frozenset(("m30m", "mim", "ns", "seer", "ssl", "swag", "swsl", "wsl"))
"""Words in tags of timm for pseudo-labels, hashtags and reconstructed features, which are none of the kinds here."""
_SEVERAL_KINDS = ("beit3_*", "beitv2_*", "eva*")
"""Architectures of timm whose pretraining combines several kinds, whatever their tags say."""


@dataclass(frozen=True)
class Method:
    """Method of pretraining without class labels.

    >>> str(METHODS[0]), str(METHODS[-1])
    ('self-supervised (DINO)', 'image-text (CLIP)')
    """

    name: str
    kind: Literal["self-supervised", "image-text"]
    weights: tuple[str, ...]
    """Patterns of `ARCHITECTURE.TAG` in timm."""
    publishers: tuple[str, ...]
    """Hub organization of the authors, and `model_type` of their repositories for transformers."""
    source: str
    trains_class_token: bool = False
    """Whether the loss compares class tokens, so that the class token summarizes the image without fine-tuning."""

    def __str__(self) -> str:
        return f"{self.kind} ({self.name})"


METHODS = (
    Method("DINO", "self-supervised", ("*.dino", "*.fb_dino"), (), "https://arxiv.org/abs/2104.14294", True),
    Method(
        "DINOv2", "self-supervised", ("*.lvd142m",), ("facebook/dinov2", "facebook/dinov2_with_registers"),
        "https://arxiv.org/abs/2304.07193", True,
    ),
    Method(
        "DINOv3", "self-supervised", ("*dinov3*.lvd1689m", "*dinov3*.sat493m", "*.dinov3_*"), (),
        "https://arxiv.org/abs/2508.10104", True,
    ),
    Method("MAE", "self-supervised", ("*.mae", "*.mae_*"), (), "https://arxiv.org/abs/2111.06377"),
    Method("FCMAE", "self-supervised", ("*.fcmae*",), (), "https://arxiv.org/abs/2301.00808"),
    Method("I-JEPA", "self-supervised", ("*_ijepa",), ("facebook/ijepa",), "https://arxiv.org/abs/2301.08243"),
    Method("BEiT", "self-supervised", ("beit_*",), ("microsoft/beit",), "https://arxiv.org/abs/2106.08254"),
    Method("SigLIP 2", "image-text", ("*siglip*.v2_webli*",), ("google/siglip2",), "https://arxiv.org/abs/2502.14786"),
    Method("SigLIP", "image-text", ("*siglip*.webli*",), ("google/siglip",), "https://arxiv.org/abs/2303.15343"),
    Method(
        "CLIP", "image-text", ("*clip*", "*.openai*", "*.laion*", "*.datacomp*", "*.dfn*", "*.metaclip*"),
        ("openai/clip", "laion/clip", "facebook/metaclip_2"), "https://arxiv.org/abs/2103.00020",
    ),
)  # fmt: skip
"""Methods of the weights of timm and transformers. The first one whose pattern matches is that of the weights."""


def timm_method(weights: str) -> Method | None:
    """Return the method of the weights `ARCHITECTURE.TAG` of timm, if they were first trained without class labels."""
    return next((method for method in METHODS if _matches(weights, method.weights)), None)


def timm_pretraining(weights: str) -> str | None:
    """Describe the pretraining of the weights `ARCHITECTURE.TAG` of timm; None where it is unknown.

    >>> timm_pretraining("resnet50.a1_in1k"), timm_pretraining("convnext_base.clip_laion2b_augreg_ft_in1k")
    ('supervised', 'image-text (CLIP), then supervised')
    """
    tag = weights.partition(".")[2]
    if (method := timm_method(weights)) is not None:
        return str(method) + (THEN_SUPERVISED if "_ft_in" in tag else "")
    words = [word for word in tag.split("_") if not word.isdigit()]
    is_labeled = bool(words) and words[-1] in _LABELED and _NOT_LABELED.isdisjoint(words)
    return SUPERVISED if is_labeled and not _matches(weights, _SEVERAL_KINDS) else None


def authors_pretraining(repository: str, model_type: str, *, has_classifier: bool) -> str | None:
    """Describe the pretraining of a repository of the authors for transformers; None for any other repository.

    >>> authors_pretraining("facebook/dinov2-small", "dinov2", has_classifier=False)
    'self-supervised (DINOv2)'
    """
    publisher = f"{repository.partition('/')[0]}/{model_type}"
    method = next((method for method in METHODS if publisher in method.publishers), None)
    return None if method is None else str(method) + (THEN_SUPERVISED if has_classifier else "")


def weights_of(architecture: str, tag: str | None) -> str:
    """Return the name of weights in timm, `ARCHITECTURE.TAG`; the architecture may come with its own tag.

    >>> weights_of("resnet50", "a1_in1k"), weights_of("resnet50.a1_in1k", None)
    ('resnet50.a1_in1k', 'resnet50.a1_in1k')
    """
    return f"{architecture.partition('.')[0]}.{tag}" if tag else architecture


def _matches(weights: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(weights, pattern) for pattern in patterns)
