"""Figures of features, codes and training runs: each function draws on axes and returns them.

Shapes: T frames, D model width, S segments of the picture, K codebooks, C codes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, cycle, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mert.embedding.features import Features
from mert.errors import UsageError, need
from mert.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#2a5d9f", "#c8431a", "#2f9e78", "#d296cd", "#e2ae25", "#3a3a3a")  # apart for colour-blind readers, too
ACCENT = COLOURS[1]
GRID = "#dddddd"
FAINT = "#999999"
DPI = 150
MAX_SEGMENTS = 600
UNDATED = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}  # equal data are equal bytes


def new_figure(width_in: float, height_in: float) -> Any:
    """An empty figure that belongs to no window; MertError with the install line without matplotlib."""
    return need("matplotlib.figure", "plots", "plots").Figure(figsize=(width_in, height_in), layout="constrained")


def new_axes(width_in: float = 6.4, height_in: float = 5.6) -> Axes:
    """Axes of a new figure."""
    return new_figure(width_in, height_in).subplots()


def plain(axes: Axes) -> Axes:
    """The axes without top and right spines and tick marks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8)
    return axes


def number_log_axis(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: 1, 2, 5, 10."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def picture_format(path: str | Path) -> str:
    """png, svg or pdf, by the suffix; UsageError for others.

    >>> picture_format("figure.PDF")
    'pdf'
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in UNDATED:
        raise UsageError(path, "has no suffix of a picture", "give .png, .svg or .pdf")
    return suffix


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all, in the format of the suffix."""
    kind = picture_format(path)
    with write_whole(Path(path)) as temporary, plain_texts(figure, "mert"):
        figure.savefig(temporary, format=kind, dpi=DPI, metadata=UNDATED[kind])


@contextmanager
def plain_texts(figure: Figure, salt: str) -> Iterator[None]:
    """Draw texts as they are: names in any script, with dollar signs that begin no formula; equal data, equal SVG."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": salt, "text.parse_math": False}):
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def save_axes(axes: Axes, path: str | Path) -> None:
    """Write the figure that axes belong to, as `save_figure` does."""
    figure: Any = axes.figure
    save_figure(figure, path)


def plot_ssm(features: Features, layer: str | None = None, axes: Axes | None = None) -> Axes:
    """Self-similarity: cosine between segments of one layer (its mean over time removed), bright for high similarity.

    Long recordings are averaged to at most 600 segments. ValueError for pooled features.
    """
    if features.times is None:
        raise ValueError("pooled features have no time axis: embed with pool=None")
    name = features.layers[-1] if layer is None else layer
    frames_TD = features.layer(name).astype(np.float32)
    step = -(-len(frames_TD) // MAX_SEGMENTS)
    starts = np.arange(0, len(frames_TD), step)
    counts_S1 = np.diff(np.append(starts, len(frames_TD)))[:, None]
    segments_SD = np.add.reduceat(frames_TD, starts, axis=0) / counts_S1
    segments_SD -= segments_SD.mean(axis=0)
    segments_SD /= np.linalg.norm(segments_SD, axis=1, keepdims=True) + 1e-9
    axes = axes or new_axes()
    begin, end = 0.0, features.times[-1] + features.times[0]
    image = axes.imshow(
        segments_SD @ segments_SD.T, origin="lower", extent=(begin, end, begin, end), cmap="magma", vmin=-1, vmax=1
    )
    axes.figure.colorbar(image, ax=axes, label="cosine similarity")
    source = Path(str(features.meta.get("source", ""))).name
    axes.set(xlabel="time, s", ylabel="time, s", title=f"{source}\n{features.meta.get('model', '')}, {name}")
    return axes


def plot_codes(counts_KC: np.ndarray, n_classes: Sequence[int], title: str, axes: Sequence[Axes] = ()) -> list[Axes]:
    """Use of a teacher's codes: perplexity of each codebook beside its size, and the share of each code by rank.

    `counts_KC` are the numbers of frames of each code.
    """
    if not len(axes):
        axes = new_figure(9.0, 3.8).subplots(1, 2)
    from matplotlib import colormaps

    perplexity, by_rank = (plain(panel) for panel in axes)
    shares_KC = counts_KC / np.maximum(counts_KC.sum(axis=1, keepdims=True), 1)
    places = np.arange(1, len(counts_KC) + 1)
    shades = colormaps["viridis"](np.linspace(0.25, 0.9, len(places)))  # from dark to light
    for place, share_C, size, shade in zip(places, shares_KC, n_classes, shades, strict=True):
        used = np.sort(share_C[share_C > 0])[::-1]
        value = float(np.exp(-(used * np.log(used)).sum())) if len(used) else 0.0
        perplexity.bar(place, value, color=shade, width=0.7)
        perplexity.annotate(f"{value:.0f}", (place, value), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        perplexity.plot([place - 0.42, place + 0.42], [len(used)] * 2, color=ACCENT, lw=1.6)
        perplexity.plot([place - 0.42, place + 0.42], [size] * 2, color=FAINT, lw=1.2, ls=":")
        by_rank.plot(np.arange(1, len(used) + 1), 100 * used, color=shade, lw=1.3)
        by_rank.plot([1, size], [100 / size] * 2, color=FAINT, lw=1.2, ls=":")
    perplexity.plot([], [], color=ACCENT, lw=1.6, label="codes that occur")
    perplexity.plot([], [], color=FAINT, lw=1.2, ls=":", label="codes there are")
    perplexity.set_xticks(places)
    perplexity.set_xlim(0.4, max(len(places), 4) + 0.6)
    perplexity.set(xlabel="codebook", ylabel="perplexity, codes", ylim=(0, 1.28 * max(n_classes)))
    perplexity.legend(loc="upper right", ncols=2, fontsize=8, frameon=False)
    perplexity.set_title(title, fontsize=10, loc="left")
    by_rank.set(xscale="log", yscale="log", xlabel="rank of a code", ylabel="share of all frames, %")
    by_rank.set_title("codes by rank (dotted: were all alike)", fontsize=10, loc="left")
    by_rank.grid(color=GRID, lw=0.6)
    for axis in (by_rank.xaxis, by_rank.yaxis):
        number_log_axis(axis)
    return [perplexity, by_rank]


Rows = Sequence[dict[str, Any]]


def plot_curves(rows: Rows, title: str = "") -> list[Axes]:
    """Loss, held-out accuracy beside chance, held-out error of frames, and gradient norm with the learning rate.

    Scores of probes, and clips a second with the share of time that waits for them, follow where they were recorded.
    """
    drawn = [
        (_loss, "loss of a masked frame", "loss, all heads"),
        (_accuracy, "held-out accuracy at masked frames", "accuracy, %"),
        (_error, "held-out error of frames", "squared error / that of the mean"),
        (_gradient, "gradient norm and learning rate", "gradient norm"),
    ]
    if any(name.startswith("probe/") for row in rows for name in row):
        drawn.append((_probes, "probes of the frozen features (validation)", "score"))
    if any("clips_per_s" in row for row in rows):
        drawn.append((_throughput, "throughput, and time that waits for clips", "clips a second"))
    n_rows = -(-len(drawn) // 2)
    figure = new_figure(9.0, 3.1 * n_rows)
    panels = [plain(panel) for panel in figure.subplots(n_rows, 2).flatten()]
    for unused in panels[len(drawn) :]:
        unused.set_axis_off()
    panels = panels[: len(drawn)]
    for panel, (draw, heading, label) in zip(panels, drawn, strict=True):
        draw(panel, rows)
        panel.set_title(heading, fontsize=9.5, loc="left")
        panel.set_ylabel(label, fontsize=9)
        panel.set_xlabel("step", fontsize=9)
        panel.locator_params(axis="x", integer=True)
        panel.grid(axis="y", color=GRID, lw=0.6)
        if not panel.lines:
            panel.text(0.5, 0.5, "not recorded", transform=panel.transAxes, ha="center", color=FAINT)
        elif panel.get_legend_handles_labels()[1]:
            panel.legend(fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    return panels


def points(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    """Steps at which a metric was recorded, and its values.

    >>> points([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "valid/loss": 2.5}], "valid/loss")
    ([2], [2.5])
    """
    recorded = [row for row in rows if row.get(name) is not None]
    return [row["step"] for row in recorded], [row[name] for row in recorded]


def _named(rows: Rows, ending: str) -> list[str]:
    """Names of metrics with this ending, one per teacher."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name.endswith(ending)]


def _teacher(name: str) -> str:
    return name.removeprefix("valid/").rpartition("/")[0]


def _loss(axes: Axes, rows: Rows) -> None:
    axes.plot(*points(rows, "loss"), color=COLOURS[0], lw=0.6, alpha=0.7, label="training")
    held_out = points(rows, "valid/loss")
    if held_out[0]:
        axes.plot(*held_out, "o-", color=ACCENT, ms=3.5, lw=1.2, label="held out")


def _accuracy(axes: Axes, rows: Rows) -> None:
    for name, colour in zip(_named(rows, "/accuracy_0"), COLOURS, strict=False):
        stem = name.removesuffix("_0")
        codebooks = list(takewhile(lambda curve: curve[0], (points(rows, f"{stem}_{k}") for k in count())))
        others = "codebook 2" if len(codebooks) == 2 else f"codebooks 2 to {len(codebooks)}"
        for k, (steps, values) in enumerate(codebooks):
            label = f"{_teacher(name)}, {others if k else 'codebook 1'}" if k < 2 else None
            style: dict[str, Any] = {"ms": 3.5, "lw": 1.4} if k == 0 else {"ms": 2, "lw": 0.7, "alpha": 0.45}
            axes.plot(steps, 100 * np.array(values), "o-", color=colour, label=label, **style)
        steps, values = points(rows, stem.replace("/accuracy", "/most_frequent") + "_0")
        axes.plot(steps, 100 * np.array(values), ":", color=colour, lw=1.4, label="codebook 1: most frequent code")


def _error(axes: Axes, rows: Rows) -> None:
    for name, colour in zip(_named(rows, "/error"), COLOURS, strict=False):
        axes.plot(*points(rows, name), "o-", color=colour, ms=3.5, lw=1.2, label=_teacher(name))
    if axes.lines:
        axes.axhline(1.0, color=FAINT, ls=":", lw=1.4, label="predicting the mean")


def _gradient(axes: Axes, rows: Rows) -> None:
    steps, norms = points(rows, "grad_norm")
    if steps:
        axes.plot(steps, norms, color=COLOURS[0], lw=0.5)
        axes.set_yscale("log")
        number_log_axis(axes.yaxis)
    axes.yaxis.label.set_color(COLOURS[0])
    steps, rates = points(rows, "lr")
    if steps:
        right = plain(axes.twinx())
        right.plot(steps, rates, color=ACCENT, lw=1.4)
        right.set_ylabel("learning rate", fontsize=9, color=ACCENT)
        right.set_ylim(bottom=0)
        right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        right.yaxis.get_offset_text().set_fontsize(8)


def _probes(axes: Axes, rows: Rows) -> None:
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("probe/"))
    for name, colour in zip(names, cycle(COLOURS)):
        axes.plot(*points(rows, name), "o-", color=colour, ms=3.5, lw=1.2, label=name.removeprefix("probe/"))


def _throughput(axes: Axes, rows: Rows) -> None:
    axes.plot(*points(rows, "clips_per_s"), color=COLOURS[0], lw=0.6)
    axes.set_ylim(bottom=0)
    axes.yaxis.label.set_color(COLOURS[0])
    waits = [
        (row["step"], 100 * row["wait_s"] / row["seconds"]) for row in rows if row.get("wait_s") and row["seconds"]
    ]
    if waits:
        right = plain(axes.twinx())
        right.plot(*zip(*waits, strict=True), color=ACCENT, lw=0.8)
        right.set_ylabel("time that waits, %", fontsize=9, color=ACCENT)
        right.set_ylim(0, 100)
