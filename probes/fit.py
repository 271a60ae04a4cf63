"""Fitting heads to frozen features: each head stops on its own and keeps its best epoch by validation; no test data.

The protocol is MARBLE's (arXiv 2306.10548, appendix A): Adam, batches of as many windows as 64 clips have, the
learning rate halved when validation stalls, the end of training when it stalls longer.

Shapes: G heads at once, R windows (rows), B windows of a batch, K clips, P width, C outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mert.errors import MertError
from probes.heads import HeadShape, HeadStack, StackAdam, forward

BATCH_CLIPS = 64
LOSSES: dict[str, Callable[..., Tensor]] = {
    "classes": functional.cross_entropy,  # targets [K] int64
    "tags": functional.binary_cross_entropy_with_logits,  # targets [K, C] of 0 and 1
    "values": functional.mse_loss,  # targets [K, C]
}


@dataclass(frozen=True)
class Setting:
    """One point of the grid: a layer's name or "all", learning rate, seed, and how features are scaled (SCALINGS)."""

    layer: str
    lr: float
    seed: int
    scaling: str = field(default="standardized", kw_only=True)


@dataclass(frozen=True)
class Windows:
    """Examples of a split: x [R, P] or [R, L, P], and the clip each row belongs to, in ascending order."""

    x: Tensor
    owners: Tensor

    @property
    def n_clips(self) -> int:
        return int(self.owners[-1]) + 1 if len(self.owners) else 0


@dataclass(frozen=True)
class Policy:
    """When training ends: after `max_epochs`, or earlier by the `patience` of EarlyStopping."""

    max_epochs: int = 100
    patience: tuple[int, int] = (6, 20)


@dataclass(frozen=True, kw_only=True)
class FitData(Policy):
    """What heads are fitted to: windows, a target per clip, the loss (of LOSSES), and how validation is scored.

    `score` takes the logits of all validation windows [R, C] and returns the number that selects epochs and settings,
    higher being better.
    """

    train: Windows
    targets: Tensor
    valid: Windows
    score: Callable[[np.ndarray], float]
    loss: str
    outputs: int
    hidden: int = 512


@dataclass
class Fit:
    """A fitted head: its parameters at the best epoch, the score of that epoch, and the curve."""

    setting: Setting
    score: float
    epoch: int
    parameters: dict[str, Tensor]
    curve: list[float] = field(default_factory=list)

    def logits(self, windows: Windows) -> np.ndarray:
        """Logits of every window, float32 [R, C]."""
        return in_pieces(self.parameters, windows.x)[0]


def fit(task: FitData, settings: Sequence[Setting], device: str = "cpu") -> list[Fit]:
    """Fit heads for settings of one layer option, all at once; the result of a head does not depend on the others.

    On a CPU give one setting at a time, which is faster there; on a GPU all.
    """
    check(task)
    weighted = task.train.x.shape[1] if task.train.x.ndim == 3 else 0
    shape = HeadShape(task.train.x.shape[-1], task.outputs, task.hidden, weighted)
    stack = HeadStack(shape, [setting.seed for setting in settings], device)
    rates_G = torch.tensor([setting.lr for setting in settings], device=device)
    adam = StackAdam(stack.parameters, rates_G)
    orders = [np.random.default_rng([setting.seed, 0x6F7264]) for setting in settings]

    def epoch(lr_G: Tensor) -> None:
        adam.lr_G = lr_G
        for rows_GB in batches(task.train, orders):
            adam.step(losses(task, stack, rows_GB))

    def validate() -> list[float]:
        return [task.score(logits_RC) for logits_RC in in_pieces(stack.parameters, task.valid.x)]

    stopping, best = run_epochs(task, rates_G, epoch, validate, lambda: stack.parameters)
    heads = [{name: value[g : g + 1] for name, value in best.items()} for g in range(len(settings))]
    fits = zip(settings, stopping.best, stopping.epochs, heads, stopping.curves, strict=True)
    return [Fit(*parts) for parts in fits]


def run_epochs(
    policy: Policy, lr_G: Tensor, epoch: Callable[[Tensor], None], validate: Callable[[], Sequence[float]],
    state: Callable[[], Mapping[str, Tensor]],
) -> tuple[EarlyStopping, dict[str, Tensor]]:  # fmt: skip
    """Train G heads until all have stopped: their scores, and copies of their `state` at the best epoch of each.

    `epoch` trains for an epoch at the rates [G], `validate` gives a score per head, higher being better.
    """
    stopping = EarlyStopping(len(lr_G), policy.patience)
    best = {name: value.detach().clone() for name, value in state().items()}
    for number in range(1, policy.max_epochs + 1):
        epoch(lr_G)
        better_G, lr_G = stopping.update(number, validate(), lr_G)
        for name, value in state().items() if any(better_G) else ():
            if all(better_G):
                best[name] = value.detach().clone()
            else:
                best[name][better_G] = value.detach()[better_G]
        if stopping.all_done:
            break
    return stopping, best


class EarlyStopping:
    """For each head: its best score and the epoch of it, when its rate is halved, and when it stops.

    The rate is halved when more than `patience[0]` epochs in a row bring no better score, as torch's ReduceLROnPlateau
    counts, and the head stops after `patience[1]` of them, or at a NaN.
    """

    def __init__(self, n_heads: int, patience: tuple[int, int]) -> None:
        self.best, self.epochs = [-np.inf] * n_heads, [0] * n_heads
        self.curves: list[list[float]] = [[] for _ in range(n_heads)]
        self._plateau, self._stop = patience
        self._done = [False] * n_heads

    @property
    def all_done(self) -> bool:
        return all(self._done)

    def update(self, epoch: int, scores: Sequence[float], lr_G: Tensor) -> tuple[list[bool], Tensor]:
        """Which heads are at their best now, and the learning rates that follow."""
        lr_G, better_G = lr_G.clone(), [False] * len(scores)
        for g, score in enumerate(scores):
            if self._done[g]:
                continue
            self.curves[g].append(float(score))
            waited = epoch - self.epochs[g]
            if score > self.best[g]:
                better_G[g], self.best[g], self.epochs[g] = True, float(score), epoch
            elif waited % (self._plateau + 1) == 0:
                lr_G[g] *= 0.5
            self._done[g] = not better_G[g] and (waited >= self._stop or math.isnan(score))
        return better_G, lr_G


def batches(windows: Windows, orders: Sequence[np.random.Generator]) -> list[Tensor]:
    """Rows [G, B] of each batch of an epoch: each head has its own order of clips, cut where a batch is full."""
    owners = windows.owners.numpy()
    starts = np.searchsorted(owners, np.arange(windows.n_clips + 1))
    counts = np.diff(starts)
    epochs = []
    for order in orders:
        clips = order.permutation(windows.n_clips)
        first = np.repeat(starts[clips] - np.cumsum(counts[clips]) + counts[clips], counts[clips])
        epochs.append(first + np.arange(len(first)))
    rows_GR = torch.from_numpy(np.stack(epochs))
    size = BATCH_CLIPS * max(1, round(len(owners) / max(1, windows.n_clips)))
    return list(rows_GR.split(size, dim=1))


def losses(task: FitData, stack: HeadStack, rows_GB: Tensor) -> Tensor:
    """Mean loss of each head [G] on its batch; the target of a window is that of its clip."""
    logits_GBC = stack.logits(task.train.x[rows_GB].float(), train=True)
    targets = task.targets[task.train.owners[rows_GB]]
    each = LOSSES[task.loss](logits_GBC.flatten(0, 1), targets.flatten(0, 1), reduction="none")
    return each.reshape(len(rows_GB), -1).mean(dim=1)


@torch.inference_mode()
def in_pieces(parameters: dict[str, Tensor], x: Tensor, rows: int = 4096) -> np.ndarray:
    """Logits [G, R, C] of all rows for all heads, without dropout."""
    n_heads = len(parameters["w2"])
    pieces = [forward(parameters, piece.float().expand(n_heads, *piece.shape)) for piece in x.split(rows)]
    return torch.cat(pieces, dim=1).cpu().numpy()


def check(task: FitData) -> None:
    """MertError where heads cannot be fitted or scored."""
    if not len(task.train.x) or not len(task.valid.x):
        raise MertError("probe", "train or valid has no windows", "give both splits some clips")
    if not (bool(torch.isfinite(task.train.x).all()) and bool(torch.isfinite(task.targets).all())):
        raise MertError("probe", "features or targets are NaN or infinite", "check the encoder and the labels")
    if task.loss == "values" and bool((task.targets.std(dim=0, correction=0) == 0).any()):
        raise MertError("probe", "a target is constant in train", "leave it out, or give other clips")


def mean_over_clips(values_RC: np.ndarray, owners_R: np.ndarray) -> np.ndarray:
    """[R, C] of windows to [K, C] of clips; owners ascend.

    >>> mean_over_clips(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 1]))
    array([[2.],
           [5.]])
    """
    starts = np.flatnonzero(np.diff(owners_R, prepend=-1))
    counts = np.diff(np.append(starts, len(owners_R)))
    return np.add.reduceat(values_RC, starts, axis=0) / counts[:, None]


def train(
    model: nn.Module, lr: float, policy: Policy, epoch: Callable[[torch.optim.Optimizer], None],
    validate: Callable[[], float],
) -> tuple[float, int]:  # fmt: skip
    """Train a module by torch's Adam and keep the weights of its best epoch: (the best score, its epoch from 1).

    A score that is not finite ends the training; if it is the first, the model stays untrained, the score is minus
    infinity and the epoch 0.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr)

    def train_epoch(lr_G: Tensor) -> None:
        optimizer.param_groups[0]["lr"] = float(lr_G)
        model.train()
        epoch(optimizer)

    def score() -> list[float]:
        model.eval()
        with torch.no_grad():
            value = validate()
        return [value if math.isfinite(value) else math.nan]

    rate_G = torch.tensor([lr], dtype=torch.float64)
    stopping, best = run_epochs(policy, rate_G, train_epoch, score, model.state_dict)
    model.load_state_dict(best)
    model.eval()
    return stopping.best[0], stopping.epochs[0]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[np.random.Generator]:
    """Seed torch's random numbers (weights, dropout) within the block, and yield a NumPy generator of that seed."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield np.random.default_rng(seed)
