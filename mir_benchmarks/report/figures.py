"""The figures of a report: each function draws on axes, which it returns. Series and grids look as in `mert.plots`.

Shapes: S seeds, n items, C classes, K tasks, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mert.plots import ACCENT, COLOURS, FAINT, GRID, new_axes, plain
from mir_benchmarks.report.runs import Run, unlike
from mir_benchmarks.tasks.registry import TASKS
from probes.metrics import chance
from probes.results import LayerCurve, Outputs, Result, draw_chance, is_single, layer_label, layer_order
from probes.results import plot_layer_curve as draw_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

COUNTED_CLASSES = 24  # confusion matrices of at most this many classes show their counts
RULE, FRAME, INK = "#eeeeee", "#bbbbbb", "#333333"  # lines between tasks, around a matrix, counts in its light cells


def plot_scores(runs: Sequence[Run], axes: Axes | None = None) -> Axes:
    """Task scores with their 95 % intervals, one dot for each model; hollow where numbers are not comparable."""
    tasks = [name for name in TASKS if name != "musdb18" and any(name in run.results for run in runs)]
    axes = plain(axes or new_axes(11.0, 1.0 + len(tasks) * (0.14 + 0.15 * len(runs))))
    offsets = np.linspace(-0.27, 0.27, len(runs)) if len(runs) > 1 else [0.0]
    for r, run in enumerate(runs):
        colour = COLOURS[r % len(COLOURS)]
        for row, name in enumerate(tasks):
            if result := run.results.get(name):
                y, fill = row + offsets[r], "white" if result.limit or unlike(runs, name) else colour
                interval = result.score["ci95"] or [result.score["mean"]] * 2
                axes.plot(interval, [y, y], color=colour, lw=2.2, alpha=0.45, solid_capstyle="round")
                axes.plot(result.score["mean"], y, "o", ms=6, mfc=fill, mec=colour)
                axes.annotate(
                    f"{result.score['mean']:.1f}", (interval[1], y), (5, 0), textcoords="offset points",
                    va="center", fontsize=7, color=colour,
                )  # fmt: skip
        axes.plot([], [], "o-", color=colour, label=run.label)
    axes.set_yticks(range(len(tasks)), [TASKS[name].title for name in tasks])
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.grid(axis="x", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    for row in range(1, len(tasks)):
        axes.axhline(row - 0.5, color=RULE, lw=0.8, zorder=0)
    axes.set_xlabel("task score, points", fontsize=8)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, fontsize=8, frameon=False)
    return axes


def plot_heatmap(run: Run, axes: Axes | None = None) -> Axes:
    """Validation by task and layer, z-scored within each task; the best layer is boxed."""
    from matplotlib.patches import Rectangle

    curves = run.layered
    layers = layer_order([layer for curve in curves.values() for layer in curve.layers])
    values_KL = np.full((len(curves), len(layers)), np.nan)
    for row, curve in enumerate(curves.values()):
        spread = curve.mean.std() if curve.mean.std() > 1e-12 else 1.0
        values_KL[row, [layers.index(layer) for layer in curve.layers]] = (curve.mean - curve.mean.mean()) / spread
    axes = axes or new_axes(3.0 + min(0.52 * max(8, len(layers)), 8.0), 1.5 + 0.3 * len(curves))
    image = axes.imshow(values_KL, cmap="YlGnBu", vmin=-2, vmax=1.6, aspect="auto")
    for row, best in enumerate(np.nanargmax(values_KL, axis=1).tolist()):
        axes.add_patch(Rectangle((best - 0.46, row - 0.46), 0.92, 0.92, fill=False, ec=ACCENT, lw=2.0, zorder=3))
    axes.set_xticks(range(len(layers)), [layer_label(layer) for layer in layers])
    axes.set_yticks(range(len(curves)), [TASKS[name].title for name in curves])
    axes.set_xticks(np.arange(0.5, len(layers) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(curves) - 1), minor=True)
    axes.grid(which="minor", color="white", lw=1.2)
    for column in [i for i, layer in enumerate(layers) if not is_single(layer)][:1]:
        axes.axvline(column - 0.5, color="white", lw=6)
    axes.tick_params(which="both", length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("layer", fontsize=8)
    _add_scale(axes, image, "z-score in the task", shrink=0.9, extend="both")
    return axes


def _add_scale(axes: Axes, image: AxesImage, title: str, **options: Any) -> None:
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02, **options)
    bar.set_label(title, fontsize=8)
    bar.ax.tick_params(labelsize=7, length=0)
    bar.outline.set_visible(False)


def plot_layer_curve(result: Result, axes: Axes | None = None, colour: str = COLOURS[0]) -> Axes:
    """Validation by layer at each layer's best rate: mean and range over seeds, and the selected layer."""
    axes = draw_curve(LayerCurve.of(result.grid), result.layer, axes or new_axes(2.9, 2.1), colour, size_pt=8.0)
    draw_chance(axes, chance(TASKS[result.task["name"]].monitor, tuple(result.task.get("classes", ()))))
    axes.set_title(TASKS[result.task["name"]].title, fontsize=9, loc="left")
    return axes


def plot_layer_curves(run: Run, columns: int = 4) -> list[Axes]:
    """`plot_layer_curve` of every task of a model, on one figure."""
    results = [run.results[name] for name in run.layered]
    rows, width = -(-len(results) // columns), min(columns, len(results))
    figure = new_axes(2.75 * width + 0.2, 1.95 * rows + 0.2).figure
    figure.clear()
    grid = figure.subplots(rows, width, squeeze=False).flatten()
    for spare in grid[len(results) :]:
        spare.set_axis_off()
    return [plot_layer_curve(result, axes) for result, axes in zip(results, grid, strict=False)]


def confusion(outputs: Outputs) -> tuple[np.ndarray, list[int]]:
    """Counts [C, C] over all seeds, one row per true class; and the classes: all, or those that occur if many."""
    n_classes = outputs.outputs.shape[2]
    counts_CC = np.zeros((n_classes, n_classes), dtype=int)
    np.add.at(counts_CC, (outputs.targets.astype(int), outputs.outputs.argmax(axis=2)), 1)
    kept = list(range(n_classes))
    if n_classes > COUNTED_CLASSES:
        kept = np.flatnonzero(counts_CC.sum(axis=0) + counts_CC.sum(axis=1)).tolist()
    return counts_CC[np.ix_(kept, kept)], kept


def plot_confusion(result: Result, outputs: Outputs, axes: Axes | None = None) -> Axes:
    """Confusion matrix, each true class normalised to 1; counts over all seeds in the cells of up to 24 classes."""
    counts_CC, kept = confusion(outputs)
    names = [TASKS[result.task["name"]].class_name(outputs.columns[i]) for i in kept]
    size = 1.9 + 0.28 * len(names) if len(names) <= COUNTED_CLASSES else 6.2
    axes = axes or new_axes(size + 0.6, size)
    shares_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares_CC, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names)) if len(names) <= COUNTED_CLASSES else range(0, len(names), -(-len(names) // 16))
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [names[i] for i in ticks])
    if len(names) <= COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts_CC):
            if count:
                colour = "white" if shares_CC[row, column] > 0.65 else INK
                axes.text(column, row, str(count), ha="center", va="center", fontsize=6.5, color=colour)
    axes.tick_params(length=0, labelsize=7.5)
    axes.spines[:].set_color(FRAME)
    axes.set_xlabel("estimate", fontsize=8)
    axes.set_ylabel("reference", fontsize=8)
    axes.set_title(f"{TASKS[result.task['name']].title}, {len(outputs.outputs)} seeds", fontsize=9, loc="left")
    _add_scale(axes, image, "share of the class", shrink=0.75)
    return axes


def plot_estimates(result: Result, outputs: Outputs, target: str, axes: Axes | None = None) -> Axes:
    """Estimates of one target of a regression against the truth, with the diagonal."""
    axes = plain(axes or new_axes(3.4, 3.3))
    i = outputs.columns.index(target)
    truth_n, estimates_n = outputs.targets[:, i], outputs.outputs[:, :, i].mean(axis=0)
    low, high = (float(extreme([truth_n, estimates_n])) for extreme in (np.min, np.max))
    ends = (low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.plot(ends, ends, color=FAINT, lw=1, ls=":")
    axes.plot(truth_n, estimates_n, "o", ms=3.5, color=COLOURS[0], alpha=0.5, mew=0)
    axes.set_title(f"{target}: {r2_in_words(result, target)}", fontsize=9, loc="left")
    axes.set_xlabel("reference", fontsize=8)
    axes.set_ylabel("estimate, mean over seeds", fontsize=8)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    return axes


def r2_in_words(result: Result, target: str) -> str:
    """R² as it is defined, 1 for a perfect estimate; tables hold it in points, a hundred times as much."""
    return f"R² = {result.metrics[f'r2_{target}']['mean'] / 100:.2f}"


def confusions_in_words(result: Result, outputs: Outputs) -> str:
    """The share of right answers, and the most frequent wrong ones."""
    counts_CC, kept = confusion(outputs)
    names = [TASKS[result.task["name"]].class_name(outputs.columns[i]) for i in kept]
    wrong_CC = counts_CC * ~np.eye(len(kept), dtype=bool)
    most = [np.unravel_index(i, wrong_CC.shape) for i in np.argsort(-wrong_CC, axis=None, kind="stable")[:3]]
    pairs = [f"{names[row]} taken for {names[column]} {wrong_CC[row, column]} times"
             for row, column in most if wrong_CC[row, column]]  # fmt: skip
    return ", ".join([f"{np.trace(counts_CC)} of {counts_CC.sum()} right", *pairs])
