"""Exponential moving average of the weights that a phase trains."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hf_tl.backbones.stages.adapted import plain_name
from hf_tl.backbones.stages.freezing import frozen_tensors
from hf_tl.backbones.weights.digest import whole
from hf_tl.processes.sharding import part, split_like


class WeightAverage:
    """Moving average of everything in `model` that is not frozen: trained parameters, and statistics of its norms.

    After step t the average moves by 1 - d towards the weights. Here d is the smaller of `decay` and (1 + t) / (10 +
    t), so that a short training does not stay at its starting weights (tf.train.ExponentialMovingAverage, with which
    EfficientNet was trained, https://arxiv.org/abs/1905.11946).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> average = WeightAverage(model, decay=0.5)
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the current weights of `model`, which is already frozen for its phase."""
        self.decay = decay
        frozen = frozen_tensors(model)
        self._weights = {
            name: tensor.detach()
            for name, tensor in model.state_dict().items()
            if plain_name(name) not in frozen and tensor.is_floating_point()
        }
        self._averages = {name: tensor.clone() for name, tensor in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after optimizer step `step` of the phase, counted from 1."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        average(list(map(part, self._averages.values())), list(map(part, self._weights.values())), step)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Load the average into the model while the context is open."""
        own = {name: tensor.clone() for name, tensor in self._weights.items()}
        self.apply()
        try:
            yield
        finally:
            self._fill(own)

    def apply(self) -> None:
        """Load the average into the model permanently."""
        self._fill(self._averages)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, unsharded, by tensor name."""
        return {name: whole(average) for name, average in self._averages.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the averages that `state_dict` returned."""
        for name, average in self._averages.items():
            average.copy_(split_like(average, state[name]))

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._weights.items():
            tensor.copy_(values[name])
