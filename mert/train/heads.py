"""What turns the student's states into guesses: classes of code teachers, frames of frame teachers.

Shapes: S masked frames, D model width, K codebooks, E embedding width, C classes of a codebook, F bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mert.linear import Linear

TEMPERATURE = 0.1


class CodeHead(nn.Module):
    """Classes of K codebooks by cosine similarity (MERT paper, section 3.2; HuBERT's masked prediction).

    Shape: states [S, D] and codes [S, K] -> cross entropy [K], summed over the frames. The logit of a class is the
    cosine between the projected state and the class embedding, over the temperature 0.1. That is plain cross entropy
    over all classes, which the reference computes as one positive against all negatives; nothing of shape
    [C, S, E] is ever made. `extra_classes` puts as many unused classes before the codes (fairseq's dictionary has 4).

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
        """Summed cross entropy [K] and the number of right guesses [K]."""
        losses, right = [], []
        for k, logits_SC in enumerate(self.logits(states_SD)):
            codes_S = codes_SK[:, k] + self.extra_classes
            losses.append(F.cross_entropy(logits_SC, codes_S, reduction="sum"))
            right.append((logits_SC.detach().argmax(1) == codes_S).sum())
        return torch.stack(losses), torch.stack(right)

    def logits(self, states_SD: Tensor) -> list[Tensor]:
        """Logits [S, C] of each codebook, in float32 whatever autocast says."""
        projected_SKE = self.projection(states_SD).unflatten(1, (len(self.sizes), self.width))
        with torch.autocast(states_SD.device.type, enabled=False):
            guesses_SKE = F.normalize(projected_SKE.float(), dim=-1, eps=1e-8) / TEMPERATURE
            classes = F.normalize(self.classes.float(), dim=-1, eps=1e-8).split(self.sizes)
            return [guesses_SKE[:, k] @ classes_CE.T for k, classes_CE in enumerate(classes)]


class FrameHead(nn.Module):
    """Frames of a musical teacher by regression: [S, D] and frames [S, F] -> squared error, summed, mean over F."""

    def __init__(self, dim: int, n_bins: int) -> None:
        super().__init__()
        self.projection = Linear(dim, n_bins)

    def forward(self, states_SD: Tensor, frames_SF: Tensor) -> Tensor:
        guesses_SF = self.projection(states_SD)
        with torch.autocast(states_SD.device.type, enabled=False):
            return (guesses_SF.float() - frames_SF).square().mean(1).sum()
