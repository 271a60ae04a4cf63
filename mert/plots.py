"""Figures people look at: one function each, drawn on axes that are returned.

Shapes: T frames, D model width, S segments of the picture.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mert.errors import MertError
from mert.features import Features

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SEGMENTS = 600


def new_axes(width_in: float = 6.4, height_in: float = 5.6) -> Axes:
    """Axes of a new figure that belongs to no window; an error names the install line without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MertError("plots", "matplotlib is not installed", 'pip install -e ".[plots]"') from None
    return Figure(figsize=(width_in, height_in), layout="constrained").subplots()


def plot_ssm(features: Features, layer: str | None = None, axes: Axes | None = None) -> Axes:
    """Self-similarity: cosine between segments of one layer (its mean over time removed), bright where alike.

    Long recordings are averaged to at most 600 segments. ValueError for pooled features.
    """
    if features.times is None:
        raise ValueError("pooled features have no time axis: embed with pool=None")
    name = features.layers[-1] if layer is None else layer
    frames_TD = features.layer(name).astype(np.float32)
    step = -(-len(frames_TD) // MOST_SEGMENTS)
    starts = np.arange(0, len(frames_TD), step)
    counts_S1 = np.diff(np.append(starts, len(frames_TD)))[:, None]
    segments_SD = np.add.reduceat(frames_TD, starts, axis=0) / counts_S1
    segments_SD = segments_SD - segments_SD.mean(axis=0)
    segments_SD /= np.linalg.norm(segments_SD, axis=1, keepdims=True) + 1e-9
    axes = axes or new_axes()
    begin, end = 0.0, features.times[-1] + features.times[0]
    image = axes.imshow(
        segments_SD @ segments_SD.T, origin="lower", extent=(begin, end, begin, end), cmap="magma", vmin=-1, vmax=1
    )
    axes.figure.colorbar(image, ax=axes, label="cosine")
    source = Path(str(features.meta.get("source", ""))).name
    axes.set(xlabel="seconds", ylabel="seconds", title=f"{source}\n{features.meta.get('model', '')}, {name}")
    return axes


def save_curves(rows: list[dict[str, Any]], path: str | Path | BinaryIO) -> None:
    """Training curves of a metrics.jsonl: loss, held-out accuracy beside chance, frame error, gradient norm, lr."""
    figure: Any = new_axes(9, 6).figure
    figure.clear()
    panels = figure.subplots(2, 2).flatten()
    steps = [row["step"] for row in rows]
    panels[0].plot(steps, [row["loss"] for row in rows], lw=0.7, label="training")
    for panel, ending in ((panels[0], "valid/loss"), (panels[1], "/accuracy_0"), (panels[1], "/most_frequent_0")):
        plot_metric(panel, rows, ending, marker=".")
    plot_metric(panels[2], rows, "/error", marker=".")
    plot_metric(panels[3], rows, "grad_norm", lw=0.5)
    plot_metric(panels[3].twinx(), rows, "lr", color="tab:orange")
    titles = (
        "loss a masked frame",
        "held-out accuracy, first codebook",
        "held-out frame error / mean's",
        "gradient norm, lr",
    )
    for panel, title in zip(panels, titles, strict=True):
        panel.set(title=title, xlabel="step")
        if panel.lines:
            panel.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def plot_metric(axes: Axes, rows: list[dict[str, Any]], ending: str, **style: Any) -> None:
    """Every metric whose name ends so, over the steps that have it."""
    names = dict.fromkeys(name for row in rows for name in row if name.endswith(ending))
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), label=name.removeprefix("valid/").replace("loss", "held-out"), **style)


def save_ssm(features: Features, path: str | Path, layer: str | None = None) -> None:
    """Draw `plot_ssm` to a file; the suffix says the format."""
    figure: Any = plot_ssm(features, layer).figure
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # song titles hold any script
        figure.savefig(path, dpi=120)
