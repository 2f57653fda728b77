"""Loss of a taught model: against the formula, and its mixture with the loss of the labels."""

import numpy as np
import pytest
import torch

from hf_tl.distillation.recipe import WEIGHT, with_teacher
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL
from hf_tl.optimization.loss import balanced_weights, distillation_loss, training_loss
from hf_tl.strategy import Phase, Strategy

CLASSES, IMAGES = 4, 6


def draw(seed: int) -> torch.Tensor:
    return 3 * torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(seed))


LOGITS, TAUGHT, LABELS = draw(0), draw(1), torch.arange(IMAGES) % CLASSES


def phase(**settings: float) -> Phase:
    return Phase(1, epochs=1, **settings)  # type: ignore[arg-type]


def softened(logits: torch.Tensor, temperature: float) -> np.ndarray:
    powers = np.exp(logits.double().numpy() / temperature)
    return np.asarray(powers / powers.sum(1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_divergence_follows_its_definition(temperature: float) -> None:
    student, teacher = softened(LOGITS, temperature), softened(TAUGHT, temperature)
    expected = temperature**2 * (teacher * np.log(teacher / student)).sum(1).mean()
    assert float(distillation_loss(LOGITS, TAUGHT, temperature)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_each_decision_of_a_multi_label_problem_has_its_divergence(temperature: float) -> None:
    student, teacher = (1 / (1 + np.exp(-each.double().numpy() / temperature)) for each in (LOGITS, TAUGHT))
    divergence = teacher * np.log(teacher / student) + (1 - teacher) * np.log((1 - teacher) / (1 - student))
    loss = distillation_loss(LOGITS, TAUGHT, temperature, MULTI_LABEL)
    assert float(loss) == pytest.approx(temperature**2 * divergence.mean(), rel=1e-5)


@pytest.mark.parametrize("problem", [SINGLE_LABEL, MULTI_LABEL])
def test_a_student_that_agrees_has_no_loss_and_no_gradient(problem: object) -> None:
    logits = TAUGHT.clone().requires_grad_()
    loss = distillation_loss(logits, TAUGHT, 5.0, problem)  # type: ignore[arg-type]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


def test_gradients_hardly_depend_on_a_high_temperature() -> None:
    gradients = []
    for temperature in (200.0, 400.0):
        logits = LOGITS.clone().requires_grad_()
        distillation_loss(logits, TAUGHT, temperature).backward()
        assert logits.grad is not None
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.005)


@pytest.mark.parametrize("share", [0.3, 0.9, 1.0])
def test_the_share_mixes_both_losses(share: float) -> None:
    weights = balanced_weights([0, 0, 0, 1, 2, 3], CLASSES)
    taught = phase(label_smoothing=0.1, distillation_weight=share, distillation_temperature=2.0)
    hard = training_loss(LOGITS, LABELS, phase(label_smoothing=0.1), weights)
    expected = (1 - share) * hard + share * distillation_loss(LOGITS, TAUGHT, 2.0)
    torch.testing.assert_close(training_loss(LOGITS, LABELS, taught, weights, taught=TAUGHT), expected)


def test_without_teacher_or_weight_the_loss_is_that_of_the_labels() -> None:
    plain = training_loss(LOGITS, LABELS, phase())
    assert training_loss(LOGITS, LABELS, phase(distillation_weight=0.5)) == plain
    assert training_loss(LOGITS, LABELS, phase(), taught=TAUGHT) == plain


def test_half_precision_is_computed_in_float32() -> None:
    half = LOGITS.bfloat16(), TAUGHT.bfloat16()
    assert distillation_loss(*half, 2.0) == distillation_loss(half[0].float(), half[1].float(), 2.0)


def weights_of(strategy: Strategy) -> list[float]:
    return [phase.distillation_weight for phase in strategy.phases]


def test_a_teacher_has_its_default_weight_in_all_phases_that_are_trained_step_by_step() -> None:
    assert weights_of(with_teacher(Strategy.gradual(), has_teacher=True)) == [WEIGHT] * 5
    solved = Strategy("own", (Phase(1, steps=1, solver="lbfgs", augmentation="none"), Phase(2, epochs=1)))
    assert weights_of(with_teacher(solved, has_teacher=True)) == [0, WEIGHT]


def test_weights_that_are_set_stay() -> None:
    assert weights_of(with_teacher(Strategy.full(distillation_weight=0.5), has_teacher=True)) == [0.5]
    partly = Strategy("own", (Phase(1, epochs=1), Phase(2, epochs=1, distillation_weight=0.2)))
    assert weights_of(with_teacher(partly, has_teacher=True)) == [0, 0.2]


def test_a_taught_strategy_still_follows_the_size_of_the_data() -> None:
    strategy = with_teacher(Strategy.full(), has_teacher=True)
    small, large = strategy.resolve(500).phases[0], strategy.resolve(50_000).phases[0]
    assert (small.epochs, large.mixup) == (20, 0.1)
    assert small.distillation_weight == large.distillation_weight == WEIGHT


@pytest.mark.parametrize(
    ("strategy", "has_teacher", "named"),
    [
        (Strategy.full(distillation_weight=0.5), False, "needs a teacher"),
        (Strategy.full(distillation_weight=0.0), True, "distillation_weight=0 ignores"),
        (Strategy.transfer(head_solver="lbfgs"), True, 'head_solver="lbfgs"'),
    ],
)
def test_settings_without_effect_are_refused(strategy: Strategy, has_teacher: bool, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        with_teacher(strategy, has_teacher=has_teacher)
