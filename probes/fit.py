"""Fitting heads to frozen features: every head stops by itself, keeps its best epoch, and never sees the test split.

The protocol is MARBLE's (arXiv 2306.10548, appendix A): Adam, batches of as many windows as 64 clips have, the
rate halved when validation stalls, the end when it stalls longer.

Shapes: G heads at once, R windows (rows), B windows of a batch, K clips, P width, C outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mert.errors import MertError
from probes.heads import HeadShape, HeadStack, StackAdam, forward

BATCH_CLIPS = 64
Score = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Setting:
    """One point of the grid: a layer's name or "all", learning rate, seed."""

    layer: str
    lr: float
    seed: int


@dataclass(frozen=True)
class Windows:
    """Examples of a split: x [R, P] or [R, L, P], and the clip each row belongs to, in ascending order."""

    x: Tensor
    owners: Tensor

    @property
    def n_clips(self) -> int:
        return int(self.owners[-1]) + 1 if len(self.owners) else 0


@dataclass(frozen=True)
class Training:
    """What the heads learn from: windows, a target for each clip, the loss, and how validation is scored.

    `loss` is "classes" (targets [K] int64), "tags" ([K, C] of 0 and 1) or "values" ([K, C]). `score` takes the logits
    of all validation windows [R, C] and gives the number that decides, higher being better.
    """

    train: Windows
    targets: Tensor
    valid: Windows
    score: Score
    loss: str
    outputs: int
    hidden: int = 512
    max_epochs: int = 100
    patience: tuple[int, int] = (5, 20)


@dataclass
class Fit:
    """A fitted head: its parameters at the best epoch, the score of that epoch, and the curve."""

    setting: Setting
    score: float
    epoch: int
    parameters: dict[str, Tensor]
    curve: list[float] = field(default_factory=list)

    @torch.inference_mode()
    def logits(self, windows: Windows) -> np.ndarray:
        """Of every window, float32 [R, C]."""
        return in_pieces(self.parameters, windows.x)[0]


def fit(task: Training, settings: Sequence[Setting], device: str = "cpu") -> list[Fit]:
    """Fit heads for settings of one layer option, all at once: what one head gives does not depend on the others.

    On a CPU give one setting at a time, which is faster there; on a GPU all.
    """
    check(task)
    weighted = task.train.x.shape[1] if task.train.x.ndim == 3 else 0
    shape = HeadShape(task.train.x.shape[-1], task.outputs, task.hidden, weighted)
    stack = HeadStack(shape, [setting.seed for setting in settings], device)
    adam = StackAdam(stack.parameters, torch.tensor([setting.lr for setting in settings], device=device))
    orders = [np.random.default_rng([setting.seed, 0x6F7264]) for setting in settings]
    progress = Progress(len(settings), task.patience)
    best = stack.state()
    for epoch in range(1, task.max_epochs + 1):
        for rows_GB in batches(task.train, orders):
            adam.step(losses(task, stack, rows_GB))
        with torch.inference_mode():
            logits_GRC = in_pieces(stack.parameters, task.valid.x)
        better_G, adam.lr_G = progress.update(epoch, [task.score(logits_RC) for logits_RC in logits_GRC], adam.lr_G)
        for name, value in stack.parameters.items():
            best[name][better_G] = value.detach()[better_G]
        if progress.all_done:
            break
    return [
        Fit(setting, progress.best[g], progress.epochs[g], {name: value[g : g + 1] for name, value in best.items()},
            progress.curves[g])
        for g, setting in enumerate(settings)
    ]  # fmt: skip


class Progress:
    """For each head: the best score so far, when it came, when the rate falls and when the head is done."""

    def __init__(self, n_heads: int, patience: tuple[int, int]) -> None:
        self.best, self.epochs = [-np.inf] * n_heads, [0] * n_heads
        self.curves: list[list[float]] = [[] for _ in range(n_heads)]
        self._plateau, self._stop = patience
        self._since_cut, self._done = [0] * n_heads, [False] * n_heads

    @property
    def all_done(self) -> bool:
        return all(self._done)

    def update(self, epoch: int, scores: Sequence[float], lr_G: Tensor) -> tuple[list[bool], Tensor]:
        """Which heads are at their best now, and the learning rates that follow."""
        lr_G = lr_G.clone()
        better = []
        for g, score in enumerate(scores):
            better.append(not self._done[g] and score > self.best[g])
            if self._done[g]:
                continue
            self.curves[g].append(float(score))
            if better[g]:
                self.best[g], self.epochs[g], self._since_cut[g] = float(score), epoch, 0
                continue
            self._since_cut[g] += 1
            if self._since_cut[g] > self._plateau:
                lr_G[g] *= 0.5
                self._since_cut[g] = 0
            self._done[g] = epoch - self.epochs[g] >= self._stop
        return better, lr_G


def batches(windows: Windows, orders: Sequence[np.random.Generator]) -> list[Tensor]:
    """Rows [G, B] of each batch of an epoch: clips in an order of each head's own, cut where a batch is full."""
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


def losses(task: Training, stack: HeadStack, rows_GB: Tensor) -> Tensor:
    """Mean loss of each head [G] on its batch: every window carries its clip's target."""
    logits_GBC = stack.logits(task.train.x[rows_GB].float(), train=True)
    targets = task.targets[task.train.owners[rows_GB]]
    if task.loss == "classes":
        each = functional.cross_entropy(logits_GBC.flatten(0, 1), targets.flatten(), reduction="none")
    elif task.loss == "tags":
        each = functional.binary_cross_entropy_with_logits(logits_GBC, targets, reduction="none")
    else:
        each = functional.mse_loss(logits_GBC, targets, reduction="none")
    return each.reshape(len(rows_GB), -1).mean(dim=1)


def in_pieces(parameters: dict[str, Tensor], x: Tensor, rows: int = 4096) -> np.ndarray:
    """Logits [G, R, C] of all rows for all heads, without dropout."""
    n_heads = len(parameters["w2"])
    pieces = [forward(parameters, piece.float().expand(n_heads, *piece.shape)) for piece in x.split(rows)]
    return torch.cat(pieces, dim=1).cpu().numpy()


def check(task: Training) -> None:
    """Refuse what cannot be learned from or scored."""
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


Scores = tuple[float, ...]


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
    validate: Callable[[], Scores],
) -> tuple[Scores, int]:
    """Run epochs and keep the weights of the best: (its score, its number from 1).

    Scores are tuples, so that a second number may decide between equals. A score that is not finite ends the training;
    if it is the first, the model stays untrained and its score is minus infinity.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr)
    best: Scores = (-math.inf,)
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
