"""The beat probe: a small network on single frozen frames, trained on random crops.

Shapes: L layers, T frames, D feature size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mert.describe.beats import frame_rate
from probes.beats.tracking import Tracking, beat_targets
from probes.features.stores import FrameStore, Layer
from probes.fit import Policy, seeded, train
from probes.heads import FrameHead

Beats = Mapping[str, np.ndarray]  # seconds of the beats of each clip


@dataclass(frozen=True)
class BeatFit:
    """A fitted head, the features it reads, and the validation F of the epoch that was kept (0: none was)."""

    head: FrameHead
    store: FrameStore
    layer: Layer
    lr: float
    seed: int
    valid: float
    epoch: int

    @property
    def score(self) -> float:
        """Validation F in points, by which a sweep chooses."""
        return 100 * self.valid


def fit_one(
    store: FrameStore, train_beats: Beats, valid_beats: Beats, *, layer: Layer, lr: float, seed: int,
    tracking: Tracking = Tracking(), policy: Policy = Policy(), batch_clips: int | None = None, crop_s: float = 10.0,
    device: str | torch.device = "cpu",
) -> BeatFit:  # fmt: skip
    """Train one head; the same seed gives the same head, bit by bit, on a CPU.

    An epoch takes a random crop of each training clip, in batches of 64 clips, or of an eighth of all if that is less.
    The epoch with the lowest loss over whole validation clips is kept, and its mean F by `tracking` is reported for
    the choice of layer and rate. MARBLE computes F in every epoch: on few clips that is coarse (beats drawn from noise
    reach 0.35), costs two to three times as long, and was on average no better where both were tried.
    """
    device, clips = torch.device(device), list(train_beats)
    with seeded(seed, device) as random:
        head = FrameHead.for_frames(store.frames(clips[0], layer)).to(device)
        head.init_rate(float(np.mean([beat_targets(train_beats[clip], store.times(clip)).mean() for clip in clips])))
        size = batch_clips or min(64, math.ceil(len(clips) / 8))

        def crop(clip: str) -> tuple[Tensor, Tensor]:
            times_T = store.times(clip)
            length = min(len(times_T), round(crop_s * frame_rate(times_T)))
            start = int(random.integers(len(times_T) - length, endpoint=True))
            targets_T = beat_targets(train_beats[clip], times_T)[start : start + length]
            frames = store.frames(clip, layer)[..., start : start + length, :]
            return torch.as_tensor(frames), torch.as_tensor(targets_T)

        def epoch(optimizer: torch.optim.Optimizer) -> None:
            order = [clips[i] for i in random.permutation(len(clips))]
            for first in range(0, len(order), size):
                step(head, [crop(clip) for clip in order[first : first + size]], optimizer, device)

        def validate() -> float:
            return -float(np.mean([clip_loss(head, store, beats, clip, layer) for clip, beats in valid_beats.items()]))

        _, number = train(head, lr, policy, epoch, validate)
    valid = float(np.mean(f_measures(head, store, valid_beats, layer, tracking))) if number else 0.0
    return BeatFit(head, store, layer, lr, seed, valid, number)


def step(
    head: FrameHead, batch: list[tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer, device: torch.device
) -> None:
    """One update on the mean loss of all frames; clip by clip, so that many layers of many clips fit into memory."""
    n_frames = sum(len(targets_T) for _, targets_T in batch)
    optimizer.zero_grad()
    for frames, targets_T in batch:
        logits_T = head(frames.to(device, torch.float32))
        loss = F.binary_cross_entropy_with_logits(logits_T, targets_T.to(device), reduction="sum") / n_frames
        loss.backward()
    optimizer.step()


def clip_loss(head: FrameHead, store: FrameStore, beats: np.ndarray, clip: str, layer: Layer) -> float:
    """Mean loss of the frames of a clip."""
    targets_T = torch.as_tensor(beat_targets(beats, store.times(clip)))
    logits_T = head.logits(store.frames(clip, layer)).cpu()
    return float(F.binary_cross_entropy_with_logits(logits_T, targets_T))


def f_measures(head: FrameHead, store: FrameStore, beats: Beats, layer: Layer, tracking: Tracking) -> np.ndarray:
    """F of each clip, whole."""
    return np.array([tracking.score(reference, head.activation(store.frames(clip, layer)), store.times(clip)).f_measure
                     for clip, reference in beats.items()])  # fmt: skip
