"""Origin of weights, stated by the loader that put them into the model and never derived from flags."""

from dataclasses import dataclass, replace
from typing import Literal, Self

Kind = Literal["hub", "file", "folder", "random", "trained", "memory"]
HeadState = Literal["new", "kept", "text"]


@dataclass(frozen=True)
class Origin:
    """Origin of a model's weights before a training.

    >>> Origin("trained", earlier=Origin("hub", name="timm/resnet50.a1_in1k", license="apache-2.0")).base_model
    'timm/resnet50.a1_in1k'
    """

    kind: Kind
    """`hub`: a repository of the Hub. `file`: a local weights file. `folder`: a local checkpoint that hf_tl did not
    train. `random`: drawn at random. `trained`: a model that hf_tl trained. `memory`: weights that were set, or
    changed since they were loaded or saved, by other means than hf_tl's."""
    name: str | None = None
    """Hub id. None for weights that are not on the Hub."""
    revision: str | None = None
    """Commit of the Hub repository."""
    license: str | None = None
    """License of these weights as stated by their source. None where it states none."""
    pretraining: str | None = None
    """Kind of their pretraining: `"supervised"`, `"self-supervised (DINOv2)"`, `"image-text (CLIP), then supervised"`.
    None where unknown."""
    file: str | None = None
    """Name of the weights file, without its folder."""
    sha256: str | None = None
    """SHA-256 of the weights file."""
    seed: int | None = None
    """Seed of random weights, where known."""
    head: HeadState | None = None
    """Whether the head came with these weights (`kept`), was initialized anew, or made from class names (`text`). None
    where unknown."""
    weights_digest: str | None = None
    """Digest of the tensors of a `trained` model."""
    strategy: str | None = None
    """Name of the strategy of a `trained` model."""
    data: str | None = None
    """Name of the dataset of a `trained` model."""
    earlier: "Origin | None" = None
    """Origin of the starting weights of a `trained` model, or of a model changed in memory."""

    @property
    def is_random(self) -> bool:
        """Return whether these weights descend from random weights alone."""
        if self.kind == "trained":
            return self.earlier is not None and self.earlier.is_random
        return self.kind == "random"

    @property
    def base_model(self) -> str | None:
        """Return the Hub id of the nearest model that the weights descend from; None without one."""
        if self.name is not None and self.kind in ("hub", "trained"):
            return self.name
        return self.earlier.base_model if self.kind == "trained" and self.earlier is not None else None

    @property
    def base_license(self) -> str | None:
        """Return the license of the weights; None for random weights, or where it is unknown."""
        if self.kind == "random":
            return None
        if self.license is None and self.kind == "trained" and self.earlier is not None:
            return self.earlier.base_license
        return self.license

    @property
    def base_pretraining(self) -> str | None:
        """Return the kind of pretraining that the weights descend from; None where it is unknown."""
        if self.pretraining is None and self.kind == "trained" and self.earlier is not None:
            return self.earlier.base_pretraining
        return self.pretraining

    @property
    def base_revision(self) -> str | None:
        """Return the commit of `base_model`."""
        if self.name is not None and self.kind in ("hub", "trained"):
            return self.revision
        return self.earlier.base_revision if self.kind == "trained" and self.earlier is not None else None

    def changed_in_memory(self) -> Self:
        """Return the origin of the same model after other code changed its weights."""
        return replace(self, **_BLANK, kind="memory", head=self.head, earlier=self)

    @classmethod
    def random(cls, seed: int | None = None) -> "Origin":
        """Return the origin of randomly initialized weights."""
        return cls("random", seed=seed, head="new")


_BLANK: dict[str, None] = dict.fromkeys(
    ("name", "revision", "license", "pretraining", "file", "sha256", "seed", "weights_digest", "strategy", "data")
)
