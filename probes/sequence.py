"""What the frame-by-frame probes share: where frames come from, sums of layers, and how long to train.

Shapes: L layers, T frames, D feature size; ... stands for clips or nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from probes.sweep import WEIGHTED

Layer = int | slice  # one layer, or several to be summed with learnt weights
ALL = slice(1, None)  # layer01 and those above it: the published "all" leaves out the encoder's input
Score = tuple[float, ...]


def layer_number(layers: Sequence[str], option: str) -> Layer:
    """A layer option as frames are asked for.

    >>> layer_number(("embed", "layer01", "layer02"), "layer01"), layer_number(("embed", "layer01", "layer02"), "all")
    (1, slice(1, None, None))
    """
    return ALL if option == WEIGHTED else layers.index(option)


class FrameStore(Protocol):
    """Frozen features of clips, frame by frame; FeatureMatrix is one."""

    def frames(self, clip_id: str, layer: Layer) -> np.ndarray:
        """[T, D] of one layer, [L, T, D] of a slice."""
        ...

    def times(self, clip_id: str) -> np.ndarray:
        """Seconds [T] of the frames."""
        ...


class LayerSum(nn.Module):
    """Layers [..., L, T, D] -> [..., T, D], summed with softmax weights that begin at random.

    >>> LayerSum(3)(torch.ones(2, 3, 4, 5)).allclose(torch.ones(2, 4, 5))
    True
    """

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.logits_L = nn.Parameter(torch.randn(n_layers))

    def forward(self, frames: Tensor) -> Tensor:
        return torch.einsum("l,...ltd->...td", self.logits_L.softmax(0), frames)


@dataclass(frozen=True)
class Policy:
    """When over `patience[0]` epochs bring no better score, Adam's rate is halved; after `patience[1]` all ends."""

    max_epochs: int = 100
    patience: tuple[int, int] = (6, 20)
    factor: float = 0.5


def train(
    model: nn.Module,
    lr: float,
    policy: Policy,
    epoch: Callable[[torch.optim.Optimizer], None],
    validate: Callable[[], Score],
) -> tuple[Score, int]:
    """Run epochs and keep the weights of the best: (its score, its number from 1).

    Scores are tuples, so that a second number may decide between equals. A score that is not finite ends the training;
    if it is the first, the model stays untrained and its score is minus infinity.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr)
    best: Score = (-math.inf,)
    best_epoch, best_state = 0, copy.deepcopy(model.state_dict())
    waited = 0
    for number in range(1, policy.max_epochs + 1):
        model.train()
        epoch(optimizer)
        model.eval()
        with torch.no_grad():
            score = validate()
        if not all(map(math.isfinite, score)):
            break
        if score > best:
            best, best_epoch, best_state, waited = score, number, copy.deepcopy(model.state_dict()), 0
            continue
        waited += 1
        if waited % (policy.patience[0] + 1) == 0:  # as torch's ReduceLROnPlateau counts
            for group in optimizer.param_groups:
                group["lr"] *= policy.factor
        if waited >= policy.patience[1]:
            break
    model.load_state_dict(best_state)
    model.eval()
    return best, best_epoch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[np.random.Generator]:
    """Torch's random numbers (weights, dropout) come from `seed` within, and go on undisturbed; gives NumPy's too."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield np.random.default_rng(seed)
