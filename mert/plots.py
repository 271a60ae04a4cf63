"""Figures people look at: one function each, drawn on axes that are returned.

Shapes: T frames, D model width, S segments of the picture, K codebooks, C codes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mert.errors import MertError, UsageError
from mert.features import Features
from mert.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#2a5d9f", "#d1602f", "#3a8f5c", "#8a4f9e", "#a08020", "#4a4a4a")
ACCENT = "#d1602f"
GRID = "#dddddd"
FAINT = "#999999"
DPI = 150
MOST_SEGMENTS = 600
UNDATED = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}  # equal data are equal bytes


def new_axes(width_in: float = 6.4, height_in: float = 5.6) -> Axes:
    """Axes of a new figure that belongs to no window; an error names the install line without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MertError("plots", "matplotlib is not installed", 'pip install -e ".[plots]"') from None
    return Figure(figsize=(width_in, height_in), layout="constrained").subplots()


def plain(axes: Axes) -> Axes:
    """Without the frame and ticks nobody reads."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8)
    return axes


def number_log_axis(axis: Axis) -> None:
    """Numbers of a logarithmic axis as people write them: 1, 2, 5, 10."""
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
    """Write a figure, whole or not at all; the suffix says the format."""
    kind = picture_format(path)
    from matplotlib import rc_context

    with write_whole(Path(path)) as temporary, _titles_in_any_script(), rc_context({"svg.hashsalt": "mert"}):
        figure.savefig(temporary, format=kind, dpi=DPI, metadata=UNDATED[kind])


@contextmanager
def _titles_in_any_script() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


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
    axes.figure.colorbar(image, ax=axes, label="cosine similarity")
    source = Path(str(features.meta.get("source", ""))).name
    axes.set(xlabel="time, s", ylabel="time, s", title=f"{source}\n{features.meta.get('model', '')}, {name}")
    return axes


def save_ssm(features: Features, path: str | Path, layer: str | None = None) -> None:
    """Draw `plot_ssm` to a file; the suffix says the format."""
    figure: Any = plot_ssm(features, layer).figure
    save_figure(figure, path)


def plot_codes(counts_KC: np.ndarray, n_classes: Sequence[int], title: str, axes: Sequence[Axes] = ()) -> list[Axes]:
    """How a teacher's codes are used: perplexity of each codebook beside its size, and the share of each code by rank.

    `counts_KC` says how often each code occurs.
    """
    if not len(axes):
        figure: Any = new_axes(9.0, 3.8).figure
        figure.clear()
        axes = figure.subplots(1, 2)
    perplexity, by_rank = (plain(panel) for panel in axes)
    shares_KC = counts_KC / np.maximum(counts_KC.sum(axis=1, keepdims=True), 1)
    places = np.arange(1, len(counts_KC) + 1)
    shades = _shades(len(places))
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


def _shades(n: int) -> list[Any]:
    """Colours from dark to light, first to last."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.25 + 0.65 * i / max(1, n - 1)) for i in range(n)]
