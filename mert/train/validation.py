"""Validation metrics on held-out music, beside the baselines that need no input.

Shapes: B clips, S masked frames, K codebooks, C classes, F bins, P numbers of a clip, T frames.
"""

import logging
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from mert.models.encoder import Attention
from mert.models.mert import Mert
from mert.train.batches import Batches
from mert.train.objective import Group, Pretrainer, add_parts
from teachers.base import perplexity

log = logging.getLogger("mert")
MIN_PERPLEXITY = 2.0  # below it, a codebook has collapsed
BASELINE_GROUPS = 8


def held_out_metrics(objective: Pretrainer, batches: Batches, alone: bool) -> dict[str, float]:
    """`validate` on the held-out groups; if the process is `alone` and so has all weights, also attention peaks."""
    groups = batches.validation()
    first = min(BASELINE_GROUPS, batches.recipe.n_groups)
    baselines = mean_targets([batches.group(1, number) for number in range(first)])
    peaks = attention_peaks(objective.model, groups[0]) if alone else {}
    return validate(objective, groups, baselines) | peaks


@torch.no_grad()
def validate(objective: Pretrainer, groups: Sequence[Group], baselines: dict[str, Tensor]) -> dict[str, float]:
    """Metrics of clean held-out groups.

    `NAME/accuracy_k` of codebook k beside `NAME/most_frequent_k`, the share of its most frequent code, and
    `NAME/perplexity_k` of the codes; `NAME/error` of frames and of whole clips relative to predicting the mean of each
    of their numbers in training (`baselines`, [F] or [P]); `loss`. Every process computes all of it.
    """
    objective.eval()
    sums: dict[str, Tensor] = {}
    for group in groups:
        add_parts(sums, *objective(group))
    objective.train()
    n_masked = sum(group.n_masked for group in groups)
    metrics = {"loss": float(sums["loss"]) / n_masked}
    for name in objective.code_heads:
        accuracy_K = sums[f"{name}/right"] / n_masked
        for k, accuracy in enumerate(accuracy_K.tolist()):
            counts_C = torch.cat([group.masked_codes(name)[:, k] for group in groups]).bincount()
            in_use = perplexity(counts_C)
            metrics |= {
                f"{name}/accuracy_{k}": accuracy,
                f"{name}/most_frequent_{k}": float((counts_C / counts_C.sum()).max()),
                f"{name}/perplexity_{k}": in_use,
            }
            if in_use < MIN_PERPLEXITY:
                log.warning("codebook %d of %s has collapsed: the perplexity of its codes is %.2f", k, name, in_use)
    for name in objective.frame_heads:
        frames_SF = torch.cat([group.masked_frames(name) for group in groups])
        error_of_mean = float((frames_SF - baselines[name]).square().mean(1).sum())
        metrics[f"{name}/error"] = float(sums[f"{name}/loss"]) / error_of_mean
    for name in objective.clip_heads:
        errors = [(group, (group.clips[name] - baselines[name]).square().mean(1)) for group in groups]
        error_of_mean = sum(float(group.per_masked_frame(error_B)) for group, error_B in errors)
        metrics[f"{name}/error"] = float(sums[f"{name}/loss"]) / error_of_mean
    return metrics


@torch.no_grad()
def attention_peaks(model: Mert, group: Group) -> dict[str, float]:
    """Largest attention logit of each layer on one clip; steady growth is a sign that training will diverge."""
    peaks: list[float] = []

    def record(attention: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(attention, Attention)
        q_HTE, k_HTE = (
            linear(inputs[0][:1]).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)[0]
            for linear in (attention.query, attention.key)
        )
        peaks.append(float((q_HTE @ k_HTE.transpose(1, 2)).max() * q_HTE.shape[-1] ** -0.5))

    hooks = [block.get_submodule("attention").register_forward_hook(record) for block in model.encoder.blocks]
    was_training = model.training
    model.eval()
    model(group.wave_BN[:1], layers=[model.config.n_layers])
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return {f"attention_peak/layer{i:02d}": peak for i, peak in enumerate(peaks, start=1)}


def mean_targets(groups: Sequence[Group]) -> dict[str, Tensor]:
    """Mean [F] or [P] of each frame and clip teacher's targets over some training groups: it needs no input."""
    first = groups[0]
    means = {name: torch.cat([group.frames[name].flatten(0, 1) for group in groups]).mean(0) for name in first.frames}
    return means | {name: torch.cat([group.clips[name] for group in groups]).mean(0) for name in first.clips}


def summary(step: int, metrics: dict[str, float]) -> str:
    """The main validation metrics in one line.

    >>> summary(5, {"loss": 12.3456, "km/accuracy_0": 0.25, "km/most_frequent_0": 0.125, "cqt/error": 0.5})
    'held out after step 5: loss 12.346; km 25.0 % right (always the most frequent code: 12.5 %); cqt error 50.0 % of predicting the mean'
    """  # noqa: E501
    parts = [f"held out after step {step}: loss {metrics['loss']:.3f}"]
    parts += [f"{name} {right(share, most_frequent(metrics, name))}" for name, share in accuracies(metrics).items()]
    errors = {name.removesuffix("/error"): value for name, value in metrics.items() if name.endswith("/error")}
    parts += [f"{name} error {100 * value:.1f} % of predicting the mean" for name, value in errors.items()]
    return "; ".join(parts)


def accuracies(metrics: Mapping[str, Any], key: str = "accuracy") -> dict[str, list[float]]:
    """The values `NAME/KEY_k` of the codebooks k of each teacher."""
    found: dict[str, list[float]] = {}
    for name, value in metrics.items():
        teacher, slash, rest = name.rpartition("/")
        if slash and rest.rpartition("_")[0] == key:
            found.setdefault(teacher, []).append(value)
    return found


def most_frequent(metrics: Mapping[str, Any], teacher: str) -> list[float]:
    """The share of the most frequent code of each codebook of a teacher."""
    return accuracies(metrics, "most_frequent").get(teacher, [])


def right(shares: Sequence[float], baselines: Sequence[float]) -> str:
    """The mean share of codes that were predicted, beside that of always predicting the most frequent one.

    >>> right([0.3, 0.1], [0.05, 0.15])
    '20.0 % right (always the most frequent code: 10.0 %; below it: codebook 2)'
    """
    below = [str(k) for k, (share, base) in enumerate(zip(shares, baselines, strict=True), start=1) if share < base]
    more = f"; below it: codebook {', '.join(below)}" if below else ""
    return f"{percent(shares)} right (always the most frequent code: {percent(baselines)}{more})"


def percent(shares: Sequence[float]) -> str:
    """The mean of some shares, in percent."""
    return f"{100 * fmean(shares):.1f} %"
