"""The pretraining objective: masked prediction of every teacher's targets, for one group of clips.

Shapes: B clips of a group, N samples, T frames, S masked frames, C conv channels or classes, D model width,
K codebooks, E embedding width, F bins, P numbers that describe a clip.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mert.models.cpu import Linear
from mert.models.mert import Mert

TEMPERATURE = 0.1


class CodeHead(nn.Module):
    """Classes of K codebooks by cosine similarity (MERT paper, section 3.2; HuBERT's masked prediction).

    Shape: states [S, D] and codes [S, K] -> cross entropy [K], summed over the frames. The logit of a class is the
    cosine between the projected state and the class embedding, over the temperature 0.1. That is plain cross entropy
    over all classes, which the reference computes as one positive against all negatives; it needs no tensor of shape
    [C, S, E]. `extra_classes` puts as many unused classes before the codes (fairseq's dictionary has 4).

    >>> head = CodeHead(32, [10, 20], width=8)
    >>> head(torch.randn(5, 32), torch.zeros(5, 2, dtype=torch.long))[0].shape
    torch.Size([2])
    """

    def __init__(self, dim: int, n_classes: Sequence[int], width: int, extra_classes: int = 0) -> None:
        super().__init__()
        self.sizes = [n + extra_classes for n in n_classes]
        self.extra_classes, self.width = extra_classes, width
        self.projection = Linear(dim, width * len(self.sizes))
        self.classes = nn.Parameter(torch.rand(sum(self.sizes), width))

    def forward(self, states_SD: Tensor, codes_SK: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross entropy [K] and the number of correct predictions [K]."""
        losses, right = [], []
        for k, logits_SC in enumerate(self.logits(states_SD)):
            codes_S = codes_SK[:, k] + self.extra_classes
            losses.append(F.cross_entropy(logits_SC, codes_S, reduction="sum"))
            right.append((logits_SC.detach().argmax(1) == codes_S).sum())
        return torch.stack(losses), torch.stack(right)

    def logits(self, states_SD: Tensor) -> list[Tensor]:
        """Logits [S, C] of each codebook, in float32 even under autocast."""
        projected_SKE = self.projection(states_SD).unflatten(1, (len(self.sizes), self.width))
        with torch.autocast(states_SD.device.type, enabled=False):
            scaled_SKE = F.normalize(projected_SKE.float(), dim=-1, eps=1e-8) / TEMPERATURE
            classes = F.normalize(self.classes.float(), dim=-1, eps=1e-8).split(self.sizes)
            return [scaled_SKE[:, k] @ classes_CE.T for k, classes_CE in enumerate(classes)]


class FrameHead(nn.Module):
    """Frames of a musical teacher by regression: [S, D] and frames [S, F] -> squared error, summed, mean over F.

    The projection predicts `scale` times the frames. Frames that vary by hundredths are learned with a scale that
    brings them to about 1: the steps of an optimiser would otherwise move predictions by more than the frames vary.
    """

    def __init__(self, dim: int, n_bins: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.projection = scale, Linear(dim, n_bins)

    def forward(self, states_SD: Tensor, frames_SF: Tensor) -> Tensor:
        predicted_SF = self.projection(states_SD)
        with torch.autocast(states_SD.device.type, enabled=False):
            return (predicted_SF.float() / self.scale - frames_SF).square().mean(1).sum()


class ClipHead(nn.Module):
    """Numbers that describe a clip by regression from its mean state: [B, T, D] and [B, P] -> squared error [B].

    All frames count, masked or not, so the clip is described by what is left of it. The error is the mean over P, whose
    numbers should be about standardised. `scale` is that of `FrameHead`.

    >>> ClipHead(32, 5)(torch.randn(2, 9, 32), torch.randn(2, 5)).shape
    torch.Size([2])
    """

    def __init__(self, dim: int, n_values: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.projection = scale, Linear(dim, n_values)

    def forward(self, states_BTD: Tensor, clips_BP: Tensor) -> Tensor:
        predicted_BP = self.projection(states_BTD.mean(1, dtype=torch.float32))
        with torch.autocast(states_BTD.device.type, enabled=False):
            return (predicted_BP.float() / self.scale - clips_BP).square().mean(1)


@dataclass(frozen=True)
class Group:
    """One group of clips, mixed and masked together: (mixed) waveforms, mask and targets.

    `wave_BN` float32, `mask_BT` bool, `codes` name -> [B, K, T'] int64, `frames` name -> [B, T', F] float32, T' >= T,
    `clips` name -> [B, P] float32.
    """

    wave_BN: Tensor
    mask_BT: Tensor
    codes: Mapping[str, Tensor]
    frames: Mapping[str, Tensor]
    clips: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def n_masked(self) -> int:
        """S, the masked frames of the group."""
        return int(self.mask_BT.sum())

    def split(self, n_clips: int) -> list[Group]:
        """The same clips in groups of at most `n_clips`; their losses add up to that of the whole group."""
        parts = [slice(first, first + n_clips) for first in range(0, len(self.wave_BN), n_clips)]
        return [
            Group(
                self.wave_BN[part], self.mask_BT[part],
                {name: codes_BKT[part] for name, codes_BKT in self.codes.items()},
                {name: frames_BTF[part] for name, frames_BTF in self.frames.items()},
                {name: clips_BP[part] for name, clips_BP in self.clips.items()},
            )
            for part in parts
        ]  # fmt: skip

    def codes_at(self, name: str, chosen_BT: Tensor) -> Tensor:
        """The codes [S, K] of a teacher at the chosen frames."""
        return self.codes[name][:, :, : chosen_BT.shape[1]].transpose(1, 2)[chosen_BT]

    def frames_at(self, name: str, chosen_BT: Tensor) -> Tensor:
        """The chosen frames [S, F] of a teacher."""
        return self.frames[name][:, : chosen_BT.shape[1]][chosen_BT]

    def masked_codes(self, name: str) -> Tensor:
        """The codes [S, K] of a teacher at the masked frames."""
        return self.codes_at(name, self.mask_BT)

    def masked_frames(self, name: str) -> Tensor:
        """The frames [S, F] of a teacher that are masked."""
        return self.frames_at(name, self.mask_BT)

    def per_masked_frame(self, error_B: Tensor) -> Tensor:
        """Errors of clips, summed as if each of their masked frames had the error of its clip."""
        return (error_B * self.mask_BT.sum(1)).sum()


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the parts of the loss (`weights` in a recipe); the defaults are those of MERT-v1-95M (no clips).

    `unmasked` weighs codes and frames at frames that are not masked (HuBERT's `pred_nomask_weight`, there divided by
    their own number): it teaches the last layers to describe what they are given, beside what is hidden. `teachers`
    holds further factors of single teachers, by their keys, for targets of other variances than most; a head of frames
    or clips predicts its targets times the root of the factor, so that they are of one size.
    """

    codes: float = 1.0
    frames: float = 1.0
    clips: float = 1.0
    penalty: float = 10.0
    unmasked: float = 0.0
    feature_grad: float = 0.1  # share of the gradient that reaches the convolutions
    teachers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        others = {f"teachers.{name}": weight for name, weight in self.teachers.items()}
        for name, weight in (vars(self) | others).items():
            if name != "teachers" and not 0 <= weight < math.inf:
                raise ValueError(f"{name}={weight} is no weight: give 0 or more")


class Pretrainer(nn.Module):
    """A MERT with a prediction head for each teacher.

    `forward` returns the loss of a group summed over its masked frames, so that groups, ranks and accumulation steps
    add up: sum of CE + S (penalty weight * mean squared conv features + frame weight * mean squared error). The error
    of a clip as a whole counts once for each of its masked frames. Divide by the masked frames of the whole batch. It
    also returns the detached sums of each part, for the logs; those of codes and frames are of masked frames alone.
    """

    def __init__(
        self, model: Mert, n_classes: Mapping[str, tuple[int, ...]], n_bins: Mapping[str, int],
        class_width: int = 64, weights: Weights | None = None, extra_classes: int = 0,
        n_clip_values: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        dim = model.config.dim
        self.model, self.weights = model, weights or Weights()
        self.code_heads = nn.ModuleDict(
            {name: CodeHead(dim, sizes, class_width, extra_classes) for name, sizes in n_classes.items()}
        )
        scales = {name: self.factor(name) ** 0.5 or 1.0 for name in (*n_bins, *(n_clip_values or {}))}
        self.frame_heads = nn.ModuleDict({name: FrameHead(dim, bins, scales[name]) for name, bins in n_bins.items()})
        self.clip_heads = nn.ModuleDict(
            {name: ClipHead(dim, n, scales[name]) for name, n in (n_clip_values or {}).items()}
        )

    def forward(self, group: Group, skip: Collection[int] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed loss of the group (float32 scalar) and its detached parts; `skip` lists dropped layers (from 1)."""
        with tf32(group.wave_BN.device):
            states_BTD, penalty = self.states(group, skip)
        parts = {"penalty": penalty * group.n_masked}
        loss = self.weights.penalty * parts["penalty"] + self._at_frames(group, states_BTD, group.mask_BT, parts)
        if self.weights.unmasked:
            loss = loss + self.weights.unmasked * self._at_frames(group, states_BTD, ~group.mask_BT, {})
        for name, head in self.clip_heads.items():
            parts[f"{name}/loss"] = group.per_masked_frame(head(states_BTD, group.clips[name]))
            loss = loss + self.weights.clips * self.factor(name) * parts[f"{name}/loss"]
        return loss, {name: part.detach() for name, part in parts.items()}

    def _at_frames(self, group: Group, states_BTD: Tensor, chosen_BT: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """The weighted loss of codes and frames at the chosen frames; their sums go into `parts`."""
        states_SD = states_BTD[chosen_BT]
        loss = states_SD.new_zeros((), dtype=torch.float32)
        for name, head in self.code_heads.items():
            parts[f"{name}/loss"], parts[f"{name}/right"] = head(states_SD, group.codes_at(name, chosen_BT))
            loss = loss + self.weights.codes * self.factor(name) * parts[f"{name}/loss"].sum()
        for name, head in self.frame_heads.items():
            parts[f"{name}/loss"] = head(states_SD, group.frames_at(name, chosen_BT))
            loss = loss + self.weights.frames * self.factor(name) * parts[f"{name}/loss"]
        return loss

    def factor(self, name: str) -> float:
        """The factor of a teacher in the loss, beside the weight of its kind."""
        return self.weights.teachers.get(name, 1.0)

    def head_of(self, name: str) -> nn.Module:
        """The head of a teacher."""
        return next(heads[name] for heads in (self.code_heads, self.frame_heads, self.clip_heads) if name in heads)

    def states(self, group: Group, skip: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """Last states [B, T, D], and the mean squared conv feature."""
        model = self.model
        features_BTC = scale_gradient(model.frontend(group.wave_BN), self.weights.feature_grad)
        penalty = features_BTC.float().square().mean()
        (states_BTD,) = model.encode(features_BTC, layers=[model.config.n_layers], mask_BT=group.mask_BT, skip=skip)
        return states_BTD, penalty


@contextmanager
def tf32(device: torch.device) -> Iterator[None]:
    """Products of float32 in TF32 on GPUs: of the model, where ten bits suffice, and not of targets and losses."""
    backends: Any = torch.backends
    kinds = [backends.cuda.matmul, backends.cudnn.conv] if device.type == "cuda" else []
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def add_parts(sums: dict[str, Tensor], loss: Tensor, parts: Mapping[str, Tensor]) -> None:
    """Add a loss and its parts to `sums`, in float64."""
    for name, part in {**parts, "loss": loss.detach()}.items():
        sums[name] = sums.get(name, torch.zeros_like(part, dtype=torch.float64)) + part.double()


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """The same values, with their gradient scaled.

    >>> x = torch.ones(1, requires_grad=True); scale_gradient(2 * x, 0.1).backward(); round(float(x.grad), 6)
    0.2
    """
    if scale != 1 and x.requires_grad:
        x.register_hook(lambda gradient: gradient * scale)
    return x


def recompute_blocks(model: Mert, every_nth: int = 1) -> None:
    """Activation checkpointing: keep only the input of every nth block, and compute it again for the gradients."""
    for block in model.encoder.blocks[::every_nth]:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
