"""What the page shows of one sound: its description, pictures, nearest recordings, and files to download.

Shapes: L layers, T frames, D model width, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mert.audio.recording import Recording
from mert.cli.page import pictures
from mert.collection.index import Index, Match
from mert.describe.analysis import describe
from mert.describe.describer import Describer
from mert.describe.description import Description
from mert.errors import AudioError
from mert.files import write_json

MAX_SECONDS = 1800.0
SECTIONS = 60  # of the tags over time, at most
SEGMENTS = 400  # of the self-similarity, at most
ENVELOPE_S = 0.01
NEAREST = 8


@dataclass
class Sound:
    """A sound and what the models say about it. `segments_LSD` are means over equal parts of each layer."""

    path: Path
    description: Description
    envelope: np.ndarray
    segments_LSD: np.ndarray

    @property
    def seconds(self) -> float:
        return self.description.seconds


def analyse(m: Describer, path: Path) -> Sound:
    """Describe a sound and embed all of its layers; AudioError for one that cannot be used, or is too long."""
    seconds = Recording(path).seconds_by_decoding(MAX_SECONDS)
    heads = m.head_set()
    recording = Recording(path)
    measure = pictures.Envelope(round(ENVELOPE_S * m.sample_rate))
    every_s = max(1.0, seconds / SECTIONS)
    description = describe(heads, recording, heads.settings, every_s, on_block=measure.add)
    return Sound(path, description, measure.pairs(), segments(m, path, seconds))


def segments(m: Describer, path: Path, seconds: float) -> np.ndarray:
    """Means [L, S, D] of all layers over equal parts of a recording."""
    n_frames = max(1, round(seconds * m.frame_rate))
    step = -(-n_frames // SEGMENTS)
    sums_LSD = np.zeros((len(m.layer_names), -(-n_frames // step) + 1, m.dim))
    counts_S = np.zeros(sums_LSD.shape[1])
    for span, values_LTD in m.frames(Recording(path), m.settings()):
        place_T = np.minimum(np.arange(span.keep_from, span.keep_to) // step, len(counts_S) - 1)
        np.add.at(counts_S, place_T, 1)
        for layer, values_TD in enumerate(values_LTD):
            np.add.at(sums_LSD[layer], place_T, values_TD)
    if not counts_S.any():
        raise AudioError(path, "holds no frame", "give a longer sound")
    used = counts_S > 0
    return (sums_LSD[:, used] / counts_S[used, None]).astype(np.float32)


def track(sound: Sound, url: str, layer: int) -> str:
    """The player of a sound, with all of its pictures."""
    predictions, seconds = sound.description.predictions, sound.seconds
    events = {name: sound.description.times(name) or () for name in ("beats", "downbeats")}
    tags = [pictures.tags_over_time(sound.description.sections, name, seconds)
            for name, prediction in predictions.items() if prediction.task == "multilabel"]  # fmt: skip
    matrix = pictures.self_similarity(sound.segments_LSD[layer], seconds)
    return pictures.player(url, seconds, pictures.waveform(sound.envelope, seconds, events), *tags, matrix)


def nearest(m: Describer, index: Index, sound: Sound) -> list[Match]:
    """The recordings of an index that are most like a sound."""
    vector_D = m.embed(sound.path, layers=[index.facts["layer"]], pool="mean", dtype=index.facts["dtype"]).values[0]
    return index.query(vector_D, NEAREST)


def downloads(m: Describer, sound: Sound, layer: int, folder: Path) -> list[str]:
    """A JSON file of the description, and the features of one layer, in a folder."""
    description, features = folder / f"{sound.path.stem}.json", folder / f"{sound.path.name}.npz"
    write_json(description, sound.description.as_dict())
    m.embed(sound.path, layers=[layer]).save(features)
    return [str(description), str(features)]


def code(m: Describer, model: str, name: str, layer: int) -> str:
    """The lines that do the same."""
    return (
        f"import mert\n\nm = mert.load({model!r})\n"
        f"print(m.describe({name!r}, every=10))\n"
        f'features = m.embed({name!r}, layers=["{m.layer_names[layer]}"])  # {features_shape(m)}\n'
    )


def features_shape(m: Describer) -> str:
    return f"[1, frames, {m.dim}], {m.frame_rate:g} frames a second"
