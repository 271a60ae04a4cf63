"""`open_corpus`: the corpus that `data=` names, or a mixture of several.

Shapes: N samples.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from mert.errors import UsageError
from mert.train.corpus.base import Corpus, CorpusError, GeneratedCorpus
from mert.train.corpus.recordings import FileCorpus, Track
from mert.train.corpus.sources import list_recordings
from mert.train.corpus.store import StoreCorpus, is_store


class Mixture:
    """Several corpora in one; `weights` are the shares of the clips that each gives, `starts` its first recordings."""

    def __init__(self, corpora: Sequence[Corpus], weights: Sequence[float]) -> None:
        self._corpora, self.weights = corpora, tuple(weights)
        self.rate_hz = corpora[0].rate_hz
        self.lengths = np.concatenate([corpus.lengths for corpus in corpora])
        self.starts = tuple(int(n) for n in np.cumsum([0, *(len(corpus) for corpus in corpora)])[:-1])
        self.licences = tuple(sorted({licence for corpus in corpora for licence in corpus.licences}))
        names = [corpus.fingerprint for corpus in corpora]
        self.fingerprint = hashlib.sha256(" ".join(names).encode()).hexdigest()
        seen: set[str] = set()
        for corpus in corpora:
            for name in map(corpus.name, range(len(corpus))):
                if name in seen:
                    remedy = "rename one, or put the folders below one that is named as data"
                    raise CorpusError(name, "is the name of recordings in two of the corpora", remedy)
                seen.add(name)

    def __len__(self) -> int:
        return len(self.lengths)

    def name(self, index: int) -> str:
        corpus, own = self._place(index)
        return corpus.name(own)

    def read(self, index: int, start: int, n_samples: int) -> np.ndarray:
        corpus, own = self._place(index)
        return corpus.read(own, start, n_samples)

    def _place(self, index: int) -> tuple[Corpus, int]:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self._corpora[part], index - self.starts[part]


def open_corpus(
    data: str, rate_hz: int, min_samples: int, options: dict[str, Any], folder: Path | None = None,
    weights: Sequence[float] = (), track: Track = lambda listed: listed, clip_s: float | None = None,
) -> Corpus:  # fmt: skip
    """A folder, a JSONL manifest (key `audio` or `path`), a store, `hf:NAME`, or an entry point of `mert.corpora`.

    With `weights`, `data` names as many of them, with commas between. Recordings of fewer than `min_samples` at
    `rate_hz` are dropped. In `folder` an index of the headers is kept. Clips are generated `clip_s` long, if that is
    given and `options` do not say otherwise. UsageError for data or options that do not exist, CorpusError if no
    recording is left.
    """
    length = {"seconds": clip_s} if clip_s else {}

    def one(name: str, place: Path | None) -> Corpus:
        if is_store(path := Path(name)):
            return StoreCorpus(path, rate_hz, min_samples)
        if not name.startswith("hf:") and not path.exists():
            for point in entry_points(group="mert.corpora", name=name):
                return _generated(name, partial(point.load(), **length), rate_hz, min_samples, options)
        return FileCorpus(list_recordings(name, options), rate_hz, min_samples, place, track)

    if not weights:
        return one(data, folder)
    names = data.split(",")
    if len(names) != len(weights):
        reason = f"are {len(weights)} for {len(names)} corpora"
        raise UsageError(f"data_weights={','.join(map(str, weights))}", reason, "give one for each, data=A,B")
    folders = [folder / f"corpus_{number}" if folder else None for number in range(len(names))]
    return Mixture([one(name.strip(), place) for name, place in zip(names, folders, strict=True)], weights)


def _generated(name: str, generator: Any, rate_hz: int, min_samples: int, options: dict[str, Any]) -> Corpus:
    try:
        corpus = GeneratedCorpus(generator(rate_hz=rate_hz, **options), rate_hz)
    except (TypeError, ValueError) as error:
        reason = f"{name} takes no such options ({error})"
        raise UsageError(f"data_options={options}", reason, "change them") from error
    if (seconds := corpus.lengths[0] / rate_hz) < min_samples / rate_hz:
        reason = f"its clips of {seconds:.2f} s are shorter than a clip to train on, {min_samples / rate_hz:.2f} s"
        raise UsageError(f"data={name}", reason, "lower clip_s, or raise data_options.seconds")
    return corpus
