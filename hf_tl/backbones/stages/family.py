"""Family of a backbone, found by its stages."""

import math

from torch import nn

from hf_tl.backbones.stages.freezing import has_statistics
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.stages.tables import read_layout
from hf_tl.recipes.families import HIERARCHICAL, Family


def family_of(model: nn.Module) -> Family:
    """Return the family of a backbone.

    An isotropic network is a stack of blocks, each of which is a stage. A quarter of them counts as one stage of a
    hierarchical network, or fewer where three such parts would be the whole backbone.

    Args:
        model: Image classifier of transformers, or a timm model.

    Raises:
        StageError: The stages of the model cannot be determined.

    >>> import timm
    >>> family_of(timm.create_model("test_resnet")).is_isotropic, family_of(timm.create_model("test_vit"))
    (False, Family(is_isotropic=True, stages_at_once=2))
    """
    if not read_layout(model).isotropic or any(map(has_statistics, model.modules())):
        return HIERARCHICAL
    backbone = len(list_stages(model)) - 1
    return Family(is_isotropic=True, stages_at_once=max(1, min(math.ceil(backbone / 4), (backbone - 1) // 3)))
