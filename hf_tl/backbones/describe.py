"""Printable table of a backbone's stages."""

from typing import TYPE_CHECKING

from hf_tl.phase import TrainableStages

if TYPE_CHECKING:
    from torch import nn


def describe_stages(name: str, trainable_stages: TrainableStages = 1) -> str:
    """Return a table of the stages of a backbone, with what `trainable_stages` trains and freezes.

    At most the config of a Hub model is downloaded, and no memory is allocated for weights.

    Args:
        name: Value of `--model`.
        trainable_stages: As in `Phase.trainable_stages`.

    Raises:
        ModelError: There is no such model, or its stages cannot be determined.
    """
    from hf_tl.backbones.stages.stage import list_stages, trainable_parameters

    model = build_skeleton(name)
    stages = list_stages(model)
    trainable = trainable_parameters(stages, trainable_stages)
    sizes = {parameter: tensor.numel() for parameter, tensor in model.named_parameters()}
    total = max(1, sum(sizes.values()))
    width = max(len(stage.name) for stage in stages)
    lines = [f"{'':>3}  {'stage':<{width}} {'parameters':>14} {'share':>7}  state"]
    for number, stage in zip(range(len(stages), 0, -1), stages, strict=True):
        count = sum(sizes[parameter] for parameter in stage.parameter_names)
        state = "frozen" if trainable.isdisjoint(stage.parameter_names) else "trained"
        lines.append(f"{number:>3}  {stage.name:<{width}} {count:>14,} {count / total:>7.1%}  {state}")
    trained = sum(size for parameter, size in sizes.items() if parameter in trainable)
    lines += [
        "",
        f"{trained:,} of {total:,} parameters are trained; --trainable_stages N trains the stages numbered 1 to N",
    ]
    return "\n".join(lines)


def build_skeleton(name: str) -> "nn.Module":
    """Build a model on the meta device, without memory for its weights.

    Raises:
        ModelError: There is no such model.
    """
    import torch

    with torch.device("meta"):
        if name.startswith("timm:"):
            import timm

            from hf_tl.backbones.libraries.timm import check_architecture

            architecture = name.removeprefix("timm:")
            check_architecture(architecture)
            return timm.create_model(architecture)
        from hf_tl.backbones.libraries.configs import load_config, model_from_config

        return model_from_config(load_config(name, None, False))
