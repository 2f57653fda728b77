"""Families of backbones, as far as recipes depend on them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Family of a backbone.

    >>> HIERARCHICAL.stages_at_once, Family(is_isotropic=True, stages_at_once=4)
    (1, Family(is_isotropic=True, stages_at_once=4))
    """

    is_isotropic: bool = False
    """Whether the stages are equal blocks of one resolution without BatchNorm, as in vision transformers."""
    stages_at_once: int = 1
    """Number of stages that count as one stage of a hierarchical network, such as a ResNet."""


HIERARCHICAL = Family()
"""Family of networks whose stages are steps of resolution; their recipe is that of an unknown backbone."""
