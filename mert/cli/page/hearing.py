"""What the page shows of one sound: its description, pictures, nearest recordings, and files to download.

Shapes: L layers, T frames, D model width, S segments.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mert.audio.recording import Recording
from mert.cli.page import pictures
from mert.collection.index import Index, Match
from mert.describe.describer import Describer
from mert.describe.description import Description
from mert.describe.listening import describe
from mert.errors import AudioError
from mert.files import sha256_file, write_json

MAX_SECONDS = 1800.0
SECTIONS = 60  # of the tags over time, at most
SEGMENTS = 400  # of the self-similarity, at most
ENVELOPE_S = 0.01
NEAREST = 8


@dataclass
class Heard:
    """A sound and what is known about it. `segments_LSD` are means over equal parts of each layer."""

    path: Path
    description: Description
    envelope: np.ndarray
    segments_LSD: np.ndarray

    @property
    def seconds(self) -> float:
        return self.description.seconds


def hear(m: Describer, path: Path) -> Heard:
    """Describe a sound and embed all of its layers; AudioError for one that cannot be used, or is too long."""
    seconds = Recording(path).seconds_by_decoding(MAX_SECONDS)
    heads = m.head_set()
    recording = Recording(path)
    measure = pictures.Envelope(round(ENVELOPE_S * m.sample_rate))
    every_s = max(1.0, seconds / SECTIONS)
    description = describe(heads, recording, heads.settings, every_s, also=measure.add)
    return Heard(path, description, measure.pairs(), segments(m, path, seconds))


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


def track(heard: Heard, url: str, layer: int) -> str:
    """The player of a sound, with all of its pictures."""
    predictions, seconds = heard.description.predictions, heard.seconds
    events = {name: heard.description.times(name) or () for name in ("beats", "downbeats")}
    tags = [pictures.tags_over_time(heard.description.sections, name, seconds)
            for name, prediction in predictions.items() if prediction.task == "multilabel"]  # fmt: skip
    matrix = pictures.self_similarity(heard.segments_LSD[layer], seconds)
    return pictures.player(url, seconds, pictures.waveform(heard.envelope, seconds, events), *tags, matrix)


def nearest(m: Describer, index: Index, heard: Heard) -> list[Match]:
    """The recordings of an index that are most like a sound."""
    vector_D = m.embed(heard.path, layers=[index.facts["layer"]], pool="mean", dtype=index.facts["dtype"]).values[0]
    return index.query(vector_D, NEAREST)


def downloads(m: Describer, heard: Heard, layer: int, home: Path) -> list[str]:
    """A JSON file of the description, and the features of one layer, in a folder of the sound's own below `home`."""
    folder = home / sha256_file(heard.path)[:16]
    shutil.rmtree(folder, ignore_errors=True)  # those of another layer
    folder.mkdir(parents=True)
    description, features = folder / f"{heard.path.stem}.json", folder / f"{heard.path.name}.npz"
    write_json(description, heard.description.as_dict())
    m.embed(heard.path, layers=[layer]).save(features)
    return [str(description), str(features)]


def code(m: Describer, name: str, layer: int) -> str:
    """The lines that do the same."""
    return (
        f'import mert\n\nm = mert.load("{m.info.name}")\n'
        f'print(m.describe("{name}", every=10))\n'
        f'features = m.embed("{name}", layers=["{m.layer_names[layer]}"])  # {features_shape(m)}\n'
    )


def features_shape(m: Describer) -> str:
    return f"[1, frames, {m.dim}], {m.frame_rate:g} frames a second"
