"""Constructors of the strategies by name, from the arguments that are chosen."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from hf_tl.phase import Phase, Solver, TrainableStages
from hf_tl.tuning import LoRA


class Constructors:
    """Constructors of `hf_tl.Strategy`, one for each name."""

    @classmethod
    def of(cls, name: str, **arguments: Any) -> Self:
        """Return the strategy of a name, with the arguments that are not None."""
        raise NotImplementedError

    @classmethod
    def transfer(
        cls,
        *,
        epochs: float | None = None,
        learning_rate: float | None = None,
        head_solver: Solver | None = None,
        head_stages: int | None = None,
        refit: bool | None = None,
        **recipe: Any,
    ) -> Self:
        """Train the head only ("feature extraction", "linear probing"), by default without augmentation.

        Args:
            epochs: Passes over the training data. Defaults to the recipe, like all that is not chosen.
            learning_rate: Peak learning rate of the head.
            head_solver: `"lbfgs"` solves the head as logistic regression instead of training it.
            head_stages: Number of trailing stages that count as the head. Defaults to 1, the last layer.
            refit: Whether to retrain on training and validation images. Defaults to no.
            recipe: Other fields of `Phase`.
        """
        return cls.of(
            "transfer", epochs=epochs, learning_rate=learning_rate, head_solver=head_solver, head_stages=head_stages,
            refit=refit, **recipe,
        )  # fmt: skip

    @classmethod
    def finetune(
        cls,
        *,
        trainable_stages: TrainableStages | None = None,
        epochs: float | None = None,
        learning_rate: float | None = None,
        backbone_learning_rate: float | None = None,
        head_solver: Solver | None = None,
        head_stages: int | None = None,
        head_recipe: Mapping[str, Any] | None = None,
        refit: bool | None = None,
        **recipe: Any,
    ) -> Self:
        """Fine-tune in two phases: the head alone, then the head and stages of the backbone.

        A random head would send large, meaningless gradients through pretrained features, so it is trained alone first
        (LP-FT, Kumar et al. 2022, https://arxiv.org/abs/2202.10054).

        Args:
            trainable_stages: Number of trailing stages that the second phase trains, head included, `"all"`, or names
                (see `Phase.trainable_stages`). Defaults to 2, the head and the last stage; for a
                vision transformer to the head and a quarter of its stages.
            epochs: Passes over the training data, both phases together, a third of them for the head. Defaults to the
                recipe, like all that is not chosen.
            learning_rate: Peak learning rate of the head in the first phase; the second uses a third of it.
            backbone_learning_rate: Peak learning rate of the last backbone stage.
            head_solver: `"lbfgs"` solves the head of the first phase as logistic regression.
            head_stages: Number of trailing stages that count as the head. Defaults to 1.
            head_recipe: Fields of `Phase` that differ in the head phase.
            refit: Whether to retrain on training and validation images. Defaults to no.
            recipe: Other fields of `Phase`.
        """
        return cls.of(
            "finetune", trainable_stages=trainable_stages, epochs=epochs, learning_rate=learning_rate,
            backbone_learning_rate=backbone_learning_rate, head_solver=head_solver, head_stages=head_stages,
            head_recipe=head_recipe, refit=refit, **recipe,
        )  # fmt: skip

    @classmethod
    def gradual(
        cls,
        *,
        trainable_stages: int | None = None,
        epochs: float | None = None,
        learning_rate: float | None = None,
        backbone_learning_rate: float | None = None,
        layer_decay: float | None = None,
        head_solver: Solver | None = None,
        head_stages: int | None = None,
        head_recipe: Mapping[str, Any] | None = None,
        refit: bool | None = None,
        **recipe: Any,
    ) -> Self:
        """Unfreeze gradually: the head, then one more backbone stage in each phase, from the top.

        Each phase starts from the weights of the previous one, and each earlier stage learns at a fraction of the
        learning rate of the stage after it. Half of the epochs after the head phase belong to the last phase (ULMFiT,
        Howard and Ruder 2018, https://arxiv.org/abs/1801.06146, where the fraction is 1/2.6).

        Args:
            trainable_stages: Number of trailing stages that the last phase trains, head included. Defaults to four, and
                then all; for a vision transformer to a quarter of its stages more in each phase.
            epochs: Passes over the training data, all phases together. Defaults to the recipe, like all that is not
                chosen.
            learning_rate: Peak learning rate of the head in the first phase; later phases use a third of it.
            backbone_learning_rate: As in `finetune`.
            layer_decay: Fraction of the learning rate from one stage to the stage before it.
            head_solver: As in `finetune`.
            head_stages: As in `finetune`.
            head_recipe: As in `finetune`.
            refit: As in `finetune`.
            recipe: Other fields of `Phase`.

        >>> import hf_tl
        >>> [phase.trainable_stages for phase in hf_tl.Strategy.gradual().phases]
        [1, 2, 3, 4, 'all']
        """
        return cls.of(
            "gradual", trainable_stages=trainable_stages, epochs=epochs, learning_rate=learning_rate,
            backbone_learning_rate=backbone_learning_rate, layer_decay=layer_decay, head_solver=head_solver,
            head_stages=head_stages, head_recipe=head_recipe, refit=refit, **recipe,
        )  # fmt: skip

    @classmethod
    def full(
        cls,
        *,
        epochs: float | None = None,
        learning_rate: float | None = None,
        backbone_learning_rate: float | None = None,
        refit: bool | None = None,
        **recipe: Any,
    ) -> Self:
        """Fine-tune the whole network from its pretrained weights, with a higher learning rate for the head."""
        return cls.of(
            "full", epochs=epochs, learning_rate=learning_rate, backbone_learning_rate=backbone_learning_rate,
            refit=refit, **recipe,
        )  # fmt: skip

    @classmethod
    def lora(
        cls,
        *,
        rank: int | None = None,
        alpha: float | None = None,
        dropout: float | None = None,
        targets: str | None = None,
        dora: bool | None = None,
        trainable_stages: TrainableStages | None = None,
        epochs: float | None = None,
        learning_rate: float | None = None,
        backbone_learning_rate: float | None = None,
        head_solver: Solver | None = None,
        head_stages: int | None = None,
        head_recipe: Mapping[str, Any] | None = None,
        refit: bool | None = None,
        **recipe: Any,
    ) -> Self:
        """Train the head alone, then the head and low-rank adapters in stages of the backbone (LoRA).

        Args:
            rank: Rank of the adapters. Defaults to 16; see `hf_tl.LoRA` for it and the next four.
            alpha: Scale of the adapters, times the rank.
            dropout: Dropout in front of the adapters.
            targets: Layers to adapt.
            dora: Whether to train magnitude and direction separately.
            trainable_stages: Stages whose layers the second phase adapts, head included. Defaults to all.
            epochs: As in `finetune`.
            learning_rate: As in `finetune`.
            backbone_learning_rate: Peak learning rate of the adapters.
            head_solver: As in `finetune`.
            head_stages: As in `finetune`.
            head_recipe: As in `finetune`.
            refit: As in `finetune`.
            recipe: Other fields of `Phase`.

        >>> import hf_tl
        >>> [phase.phrase for phase in hf_tl.Strategy.lora(rank=8, trainable_stages=4, epochs=15).phases]
        ['5 epochs of the head', '10 epochs of the last 4 stages, by LoRA of rank 8']
        """
        values: dict[str, Any] = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": targets, "dora": dora}
        chosen = {name: value for name, value in values.items() if value is not None}
        return cls.of(
            "lora", tuning=LoRA(**chosen) if chosen else None, trainable_stages=trainable_stages, epochs=epochs,
            learning_rate=learning_rate, backbone_learning_rate=backbone_learning_rate, head_solver=head_solver,
            head_stages=head_stages, head_recipe=head_recipe, refit=refit, **recipe,
        )  # fmt: skip

    @classmethod
    def auto(
        cls,
        *,
        trainable_stages: Sequence[int | Literal["all"]] | None = None,
        expected_rung: int | None = None,
        epochs: float | None = None,
        learning_rate: float | None = None,
        backbone_learning_rate: float | None = None,
        head_stages: int | None = None,
        head_recipe: Mapping[str, Any] | None = None,
        scratch: Phase | bool | None = None,
        refit: bool | None = None,
        **recipe: Any,
    ) -> Self:
        """Escalate: train the head, then deeper stages from the best weights so far, while accuracy improves.

        Args:
            trainable_stages: Numbers of trailing stages, head included, of the stage depths after the head; none for
                the head alone. Defaults to 2, 4 and `"all"`; for a vision transformer to a quarter and three quarters
                of its stages, and `"all"`.
            expected_rung: Number, from 1, of the stage depth that the evidence favors. Defaults to all stages below
                1,000 training images, which have too few validation images to show a gain, and to 1, the head.
            epochs: Passes over the training data at each stage depth. Defaults to the recipe, like all that is not
                chosen.
            learning_rate: Peak learning rate of the head in the first phase; later phases use a third of it.
            backbone_learning_rate: As in `finetune`.
            head_stages: As in `finetune`.
            head_recipe: As in `finetune`.
            scratch: A last phase that starts from random weights; True takes that of `scratch`. Defaults to none.
            refit: Whether to retrain the selected depth from scratch, see `at_once`.
            recipe: Other fields of `Phase`.

        >>> import hf_tl
        >>> [phase.trainable_stages for phase in hf_tl.Strategy.auto().phases]
        [1, 2, 4, 'all']
        """
        return cls.of(
            "auto", trainable_stages=trainable_stages, expected_rung=expected_rung, epochs=epochs,
            learning_rate=learning_rate, backbone_learning_rate=backbone_learning_rate, head_stages=head_stages,
            head_recipe=head_recipe, scratch=scratch, refit=refit, **recipe,
        )  # fmt: skip

    @classmethod
    def scratch(
        cls,
        *,
        epochs: float | None = None,
        learning_rate: float | None = None,
        refit: bool | None = None,
        **recipe: Any,
    ) -> Self:
        """Train the architecture from random weights, with one learning rate for all stages."""
        return cls.of("scratch", epochs=epochs, learning_rate=learning_rate, refit=refit, **recipe)
