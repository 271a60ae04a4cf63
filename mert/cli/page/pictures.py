"""Pictures of a sound over time as HTML, all on one time axis that begins at their left edge and ends at their right.

Shapes: S segments, D model width, N samples.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from mert.describe.description import Section
from mert.plots import ACCENT, COLOURS, DPI, FAINT, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 9.0
SHOWN_TAGS = 8
COLUMNS = 1800  # of a waveform: lowest and highest sample of each


class Envelope:
    """Lowest and highest sample of each piece of a recording whose blocks are added as they come."""

    def __init__(self, piece: int) -> None:
        self._piece, self._rest_N = piece, np.zeros(0, np.float32)
        self._pairs: list[np.ndarray] = []

    def add(self, wave_N: np.ndarray) -> None:
        """Add the next samples."""
        wave_N = np.concatenate([self._rest_N, wave_N])
        whole = len(wave_N) // self._piece * self._piece
        self._rest_N = wave_N[whole:]
        if whole:
            pieces = wave_N[:whole].reshape(-1, self._piece)
            self._pairs.append(np.stack([pieces.min(axis=1), pieces.max(axis=1)]))

    def pairs(self) -> np.ndarray:
        """[2, COLUMNS at most]: the lowest and the highest samples."""
        pairs = np.concatenate(self._pairs, axis=1) if self._pairs else np.zeros((2, 1))
        step = -(-pairs.shape[1] // COLUMNS)
        starts = np.arange(0, pairs.shape[1], step)
        return np.stack([np.minimum.reduceat(pairs[0], starts), np.maximum.reduceat(pairs[1], starts)])


def waveform(pairs: np.ndarray, seconds: float, events: Mapping[str, Sequence[float]]) -> str:
    """The waveform with beats as thin lines and downbeats as thick ones."""
    figure = new_figure(WIDTH_IN, 1.2)
    axes = full_axes(figure, seconds)
    times = np.linspace(0, seconds, pairs.shape[1])
    axes.fill_between(times, pairs[0], pairs[1], color=COLOURS[0], linewidth=0)
    largest = max(float(np.abs(pairs).max()), 1e-6)
    axes.set_ylim(-largest, largest)
    for width, (name, colour) in zip((0.6, 1.6), (("beats", FAINT), ("downbeats", ACCENT)), strict=True):
        axes.vlines(events.get(name, ()), -largest, largest, color=colour, linewidth=width, alpha=0.8)
    return picture(figure, f"waveform of {seconds:.1f} s, with beats")


def self_similarity(segments_SD: np.ndarray, seconds: float) -> str:
    """Cosine between all segments of a layer, its mean removed; time runs to the right and upwards."""
    centred_SD = segments_SD - segments_SD.mean(axis=0)
    centred_SD /= np.linalg.norm(centred_SD, axis=1, keepdims=True) + 1e-9
    figure = new_figure(WIDTH_IN / 2, WIDTH_IN / 2)
    axes = full_axes(figure, seconds)
    extent = (0.0, seconds, 0.0, seconds)
    axes.imshow(centred_SD @ centred_SD.T, origin="lower", extent=extent, aspect="auto", cmap="magma", vmin=-1, vmax=1)
    return picture(figure, "self-similarity: each moment against each, bright where alike", square=True)


def tags_over_time(sections: Sequence[Section], name: str, seconds: float) -> str:
    """The most probable tags of a head in each section, dark for probable, their names beside them; empty if none."""
    scores = [section.predictions[name].scores or {} for section in sections if name in section.predictions]
    if not scores:
        return ""
    means = {tag: float(np.mean([each[tag] for each in scores])) for tag in scores[0]}
    tags = sorted(means, key=lambda tag: -means[tag])[:SHOWN_TAGS]
    figure = new_figure(WIDTH_IN, 0.22 * len(tags))
    axes = full_axes(figure, seconds)
    edges = [section.start_s for section in sections] + [seconds]
    grid = np.array([[each[tag] for each in scores] for tag in tags])
    darkest = max(0.5, float(grid.max()))
    axes.pcolormesh(edges, np.arange(len(tags) + 1), grid, cmap="Blues", vmin=0, vmax=darkest)
    axes.set_ylim(len(tags), 0)
    names = "".join(f"<span>{escape(tag)}</span>" for tag in tags)
    label = f"{name} over time: white for a probability of 0, darkest for {darkest:.2f}"
    return picture(figure, label, f'<div class="mert-names">{names}</div>')


def full_axes(figure: Figure, seconds: float) -> Axes:
    """Axes that fill a figure, so that a place in the picture is a time."""
    axes: Axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, seconds)
    return axes


def picture(figure: Figure, label: str, beside: str = "", square: bool = False) -> str:
    """A figure as HTML, with its label above it and a playhead over it."""
    data = io.BytesIO()
    figure.set_layout_engine("none")
    figure.savefig(data, format="png", dpi=DPI)
    source = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    kind = "mert-picture mert-square" if square else "mert-picture"
    heads = '<div class="mert-playhead"></div>' + ('<div class="mert-playhead mert-across"></div>' if square else "")
    caption = f'<div class="mert-caption">{escape(label)}</div>'
    return f'{caption}<div class="{kind}"><img src="{source}" alt="{escape(label)}">{heads}{beside}</div>'


def player(url: str, seconds: float, *pictures: str) -> str:
    """A player for the sound behind a URL, and pictures whose playheads follow it; a click on one plays from there."""
    audio = f'<audio controls preload="metadata" src="{escape(url)}"></audio>'
    return f'<div class="mert-track" data-seconds="{seconds:.3f}">{audio}{"".join(pictures)}</div>'
