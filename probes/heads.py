"""One small network, an MLP on weighted layers: as stacks of G heads for pooled windows, and for single frames.

Its parameters are `layers` [L], `w1` [H, P], `b1` [H], `w2` [C, H] and `b2` [C]; saved heads hold them by these names.

Shapes: G heads of the stack, B examples, L layers, T frames, P or D width of an example, H hidden units, C outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mert.models.cpu import OneDnnLinear, onednn, trains_on_cpu

HIDDEN, DROPOUT = 512, 0.2
BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class HeadShape:
    """Sizes of a head: inputs, outputs, hidden units (0: a linear head), layers to be weighted (0: a single layer)."""

    inputs: int
    outputs: int
    hidden: int = HIDDEN
    weighted: int = 0


class HeadStack:
    """G heads: layer weights (if any) -> linear -> ReLU -> dropout -> linear; the stack trains as one.

    Each head is initialised from its own seed: as torch.nn.Linear, and layer weights from a standard normal.
    """

    def __init__(self, shape: HeadShape, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.shape = shape
        heads = [init(shape, torch.Generator().manual_seed(seed)) for seed in seeds]
        self.parameters = {name: torch.stack([head[name] for head in heads]).to(device) for name in heads[0]}
        self.noise = [torch.Generator(device).manual_seed(seed + 1_000_003) for seed in seeds]

    def logits(self, x: Tensor, train: bool = False) -> Tensor:
        """[G, B, P], or [G, B, L, P] where layers are weighted, to [G, B, C]."""
        return forward(self.parameters, x, self.noise if train else None)


def init(shape: HeadShape, random: torch.Generator | None = None) -> dict[str, Tensor]:
    """Initial parameters of one head; without `random`, from torch's global random numbers."""

    def uniform(fan_in: int, *size: int) -> Tensor:
        return torch.empty(size).uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=random)

    parameters: dict[str, Tensor] = {}
    if shape.weighted:
        parameters["layers"] = torch.randn(shape.weighted, generator=random)
    width = shape.inputs
    if shape.hidden:
        parameters |= {"w1": uniform(width, shape.hidden, width), "b1": uniform(width, shape.hidden)}
        width = shape.hidden
    parameters |= {"w2": uniform(width, shape.outputs, width), "b2": uniform(width, shape.outputs)}
    return parameters


def forward(
    parameters: Mapping[str, Tensor], x: Tensor, noise: Sequence[torch.Generator | None] | None = None
) -> Tensor:
    """Logits [G, B, C]; with `noise`, a generator per head (None: torch's global one), hidden units are dropped."""
    if "layers" in parameters:
        x = torch.einsum("gl,gblp->gbp", parameters["layers"].softmax(-1), x)
    if "w1" in parameters:
        x = affine(x, parameters["w1"], parameters["b1"]).relu()
        if noise is not None:
            kept = torch.empty_like(x, requires_grad=False)
            for kept_BH, random in zip(kept, noise, strict=True):
                kept_BH.bernoulli_(1 - DROPOUT, generator=random)
            x = x * kept * (1 / (1 - DROPOUT))
    return affine(x, parameters["w2"], parameters["b2"])


def affine(x_GBP: Tensor, weight_GHP: Tensor, bias_GH: Tensor) -> Tensor:
    """A linear layer of each head; a single head in training on a CPU uses oneDNN, which is faster."""
    if len(x_GBP) == 1 and trains_on_cpu(x_GBP) and onednn():
        return OneDnnLinear.apply(x_GBP[0], weight_GHP[0], bias_GH[0])[None]
    return torch.baddbmm(bias_GH[:, None], x_GBP, weight_GHP.transpose(1, 2))


class StackAdam:
    """Adam (Kingma and Ba 2015) with a learning rate per head of a stack; for a single head it is torch's fused one."""

    def __init__(self, parameters: dict[str, Tensor], lr_G: Tensor) -> None:
        self.lr_G, self._step = lr_G, 0
        self._tensors = [tensor.requires_grad_(True) for tensor in parameters.values()]
        self._single = torch.optim.Adam(self._tensors, betas=BETAS, eps=EPSILON, fused=True) if len(lr_G) == 1 else None
        self._first, self._second = ([torch.zeros_like(tensor) for tensor in self._tensors] for _ in range(2))

    @torch.no_grad()
    def step(self, losses_G: Tensor) -> None:
        """One update by the gradients of the heads' losses, which are independent of each other."""
        gradients = torch.autograd.grad(losses_G, self._tensors, torch.ones_like(losses_G))
        if self._single is not None:
            for tensor, gradient in zip(self._tensors, gradients, strict=True):
                tensor.grad = gradient
            self._single.param_groups[0]["lr"] = float(self.lr_G)
            self._single.step()
            return
        self._step += 1
        scale = (1 - BETAS[1] ** self._step) ** 0.5
        rate_G = self.lr_G / (1 - BETAS[0] ** self._step)
        for tensor, gradient, first, second in zip(self._tensors, gradients, self._first, self._second, strict=True):
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            size = second.sqrt().div_(scale).add_(EPSILON)
            tensor.sub_(first / size * rate_G.view(-1, *[1] * (tensor.ndim - 1)))


class LayerSum(nn.Module):
    """Layers [..., L, T, D] -> [..., T, D], summed with softmax weights that are random at first.

    >>> LayerSum(3)(torch.ones(2, 3, 4, 5)).allclose(torch.ones(2, 4, 5))
    True
    """

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.logits_L = nn.Parameter(torch.randn(n_layers))

    def forward(self, frames: Tensor) -> Tensor:
        return torch.einsum("l,...ltd->...td", self.logits_L.softmax(0), frames)


class FrameHead(nn.Module):
    """Frames [T, D], or [L, T, D] where layers are weighted, -> logits [T]: `forward` for each frame alone.

    Initial weights and dropout follow torch's global random numbers.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(init(shape))

    @classmethod
    def for_frames(cls, frames: np.ndarray) -> FrameHead:
        """A head for frames like these, [T, D] or [L, T, D]."""
        return cls(HeadShape(frames.shape[-1], 1, weighted=len(frames) if frames.ndim == 3 else 0))

    @torch.no_grad()
    def init_rate(self, rate: float) -> None:
        """Set the bias to the share of frames that hold an event, or the first epochs would be spent on learning it."""
        rate = min(max(rate, 1e-4), 1 - 1e-4)
        nn.init.constant_(self.weights["b2"], math.log(rate / (1 - rate)))

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.transpose(0, 1) if frames.ndim == 3 else frames
        weights = {name: value[None] for name, value in self.weights.items()}
        return forward(weights, x[None], (None,) if self.training else None)[0, :, 0]

    @torch.no_grad()
    def logits(self, frames: np.ndarray) -> Tensor:
        """Logits [T] of a whole clip, without dropout."""
        self.eval()
        return self(torch.as_tensor(frames, dtype=torch.float32, device=self.weights["w2"].device))

    def activation(self, frames: np.ndarray) -> np.ndarray:
        """Probability of an event, [T] float64: in float32, probabilities close to 1 would tie."""
        return np.asarray(self.logits(frames).cpu().double().sigmoid().numpy())
