"""Where weights really came from: stated by whatever put them into the model, never by a flag."""

from dataclasses import dataclass, replace
from typing import Literal, Self

Kind = Literal["hub", "file", "folder", "random", "trained", "memory"]
HeadState = Literal["new", "kept"]


@dataclass(frozen=True)
class Origin:
    """The origin of a model's weights before a training.

    >>> Origin("trained", earlier=Origin("hub", name="timm/resnet50.a1_in1k", license="apache-2.0")).base_model
    'timm/resnet50.a1_in1k'
    """

    kind: Kind
    """`hub`: a repository of the Hub. `file`: a local weights file. `folder`: a local checkpoint that hf_tl did not
    train. `random`: drawn at random. `trained`: a model that hf_tl trained. `memory`: a model object whose weights
    were set, or changed after loading, by other means than hf_tl's loaders."""
    name: str | None = None
    """Hub id. None for what is not on the Hub."""
    revision: str | None = None
    """Commit of the Hub repository."""
    license: str | None = None
    """License of these weights as their source states it. None where it states none."""
    file: str | None = None
    """Name of the weights file, without its folder."""
    sha256: str | None = None
    """SHA-256 of the weights file."""
    seed: int | None = None
    """Seed of random weights, where it is known."""
    head: HeadState | None = None
    """Whether the head came with these weights or was drawn anew. None where that is not known."""
    weights_digest: str | None = None
    """Digest of the tensors of a `trained` model."""
    strategy: str | None = None
    """Name of the strategy that a `trained` model was trained by."""
    data: str | None = None
    """Name of the dataset that a `trained` model learned from."""
    earlier: "Origin | None" = None
    """Where a `trained` model, or one changed in memory, had its weights from."""

    @property
    def is_random(self) -> bool:
        """Whether no pretrained weights went into these, at any time."""
        if self.kind == "trained":
            return self.earlier is not None and self.earlier.is_random
        return self.kind == "random"

    @property
    def base_model(self) -> str | None:
        """Hub id of the nearest model that the weights descend from. None where there is none, or it is not known."""
        if self.name is not None and self.kind in ("hub", "trained"):
            return self.name
        return self.earlier.base_model if self.kind == "trained" and self.earlier is not None else None

    @property
    def base_license(self) -> str | None:
        """License that the weights come under. None where they are random, or it is not known."""
        if self.kind == "random":
            return None
        if self.license is None and self.kind == "trained" and self.earlier is not None:
            return self.earlier.base_license
        return self.license

    @property
    def base_revision(self) -> str | None:
        """Commit of `base_model`."""
        if self.name is not None and self.kind in ("hub", "trained"):
            return self.revision
        return self.earlier.base_revision if self.kind == "trained" and self.earlier is not None else None

    def changed_in_memory(self) -> Self:
        """Return the origin of the same model after its weights were changed by other means."""
        return replace(self, **_BLANK, kind="memory", head=self.head, earlier=self)

    @classmethod
    def random(cls, seed: int | None = None) -> "Origin":
        """Return the origin of weights that were all drawn at random."""
        return cls("random", seed=seed, head="new")


_BLANK: dict[str, None] = dict.fromkeys(
    ("name", "revision", "license", "file", "sha256", "seed", "weights_digest", "strategy", "data")
)
