"""The course of a training run in one figure, from the rows of its metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mert.plots import ACCENT, COLOURS, FAINT, GRID, new_axes, number_log_axis, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[dict[str, Any]]


def plot_curves(rows: Rows, title: str = "") -> list[Axes]:
    """Loss, held-out accuracy beside chance, held-out error of frames, and gradient norm with the learning rate."""
    figure: Any = new_axes(9.0, 6.2).figure
    figure.clear()
    panels = [plain(panel) for panel in figure.subplots(2, 2).flatten()]
    for panel, draw in zip(panels, (_loss, _accuracy, _error, _gradient), strict=True):
        draw(panel, rows)
        panel.set_xlabel("step", fontsize=9)
        panel.grid(axis="y", color=GRID, lw=0.6)
        if not panel.lines:
            panel.text(0.5, 0.5, "not recorded", transform=panel.transAxes, ha="center", color=FAINT)
        elif panel.get_legend_handles_labels()[1]:
            panel.legend(fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return panels


def save_curves(rows: Rows, path: str | Path, title: str = "") -> None:
    """Draw `plot_curves` to a file; the suffix says the format."""
    figure: Any = plot_curves(rows, title)[0].figure
    save_figure(figure, path)


def points(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    """Steps at which a metric was recorded, and its values.

    >>> points([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "valid/loss": 2.5}], "valid/loss")
    ([2], [2.5])
    """
    found = [row for row in rows if row.get(name) is not None]
    return [row["step"] for row in found], [row[name] for row in found]


def _named(rows: Rows, ending: str) -> list[str]:
    """Metrics whose names end so, one for each teacher."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name.endswith(ending)]


def _of(name: str) -> str:
    return name.removeprefix("valid/").rpartition("/")[0]


def _loss(axes: Axes, rows: Rows) -> None:
    axes.plot(*points(rows, "loss"), color=COLOURS[0], lw=0.6, alpha=0.7, label="training")
    held_out = points(rows, "valid/loss")
    if held_out[0]:
        axes.plot(*held_out, "o-", color=ACCENT, ms=3.5, lw=1.2, label="held out")
    axes.set_title("loss of a masked frame", fontsize=9.5, loc="left")
    axes.set_ylabel("loss, all heads", fontsize=9)


def _numbers(k: int, n_codebooks: int) -> str:
    """Which codebooks the k-th line and its like stand for."""
    if k == 0:
        return "codebook 1"
    return "codebook 2" if n_codebooks == 2 else f"codebooks 2 to {n_codebooks}"


def _accuracy(axes: Axes, rows: Rows) -> None:
    for name, colour in zip(_named(rows, "/accuracy_0"), COLOURS, strict=False):
        stem = name.removesuffix("_0")
        codebooks = list(takewhile(lambda found: found[0], (points(rows, f"{stem}_{k}") for k in count())))
        for k, (steps, values) in enumerate(codebooks):
            label = f"{_of(name)}, {_numbers(k, len(codebooks))}" if k < 2 else None
            style: dict[str, Any] = {"ms": 3.5, "lw": 1.4} if k == 0 else {"ms": 2, "lw": 0.7, "alpha": 0.45}
            axes.plot(steps, 100 * np.array(values), "o-", color=colour, label=label, **style)
        steps, values = points(rows, stem.replace("/accuracy", "/most_frequent") + "_0")
        axes.plot(steps, 100 * np.array(values), ":", color=colour, lw=1.4, label="codebook 1: most frequent code")
    axes.set_title("held-out accuracy at masked frames", fontsize=9.5, loc="left")
    axes.set_ylabel("accuracy, %", fontsize=9)


def _error(axes: Axes, rows: Rows) -> None:
    for name, colour in zip(_named(rows, "/error"), COLOURS, strict=False):
        axes.plot(*points(rows, name), "o-", color=colour, ms=3.5, lw=1.2, label=_of(name))
    if axes.lines:
        axes.axhline(1.0, color=FAINT, ls=":", lw=1.4, label="predicting the mean")
    axes.set_title("held-out error of frames", fontsize=9.5, loc="left")
    axes.set_ylabel("squared error / that of the mean", fontsize=9)


def _gradient(axes: Axes, rows: Rows) -> None:
    steps, norms = points(rows, "grad_norm")
    if steps:
        axes.plot(steps, norms, color=COLOURS[0], lw=0.5)
        axes.set_yscale("log")
        number_log_axis(axes.yaxis)
    axes.set_title("gradient norm and learning rate", fontsize=9.5, loc="left")
    axes.set_ylabel("gradient norm", fontsize=9, color=COLOURS[0])
    steps, rates = points(rows, "lr")
    if steps:
        right = plain(axes.twinx())
        right.plot(steps, rates, color=ACCENT, lw=1.4)
        right.set_ylabel("learning rate", fontsize=9, color=ACCENT)
        right.set_ylim(bottom=0)
        right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        right.yaxis.get_offset_text().set_fontsize(8)
