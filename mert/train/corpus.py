"""Training corpora: folders, manifests, Hugging Face datasets and generators, as recordings that can be cut anywhere.

Shapes: N samples.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mert.audio.find import audio_under
from mert.audio.recording import Recording, Source
from mert.errors import AudioError, MertError, UsageError, need
from mert.files import lines_of

log = logging.getLogger("mert")
LazySource = Source | Callable[[], Source]  # large data is fetched when it is read


class Corpus(Protocol):
    """Recordings of known length that can be read from any sample on, by several threads at a time."""

    rate_hz: int

    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def n_samples(self, index: int) -> int: ...
    def read(self, index: int, start: int, n_samples: int) -> np.ndarray: ...


class CorpusError(MertError):
    """A corpus has no recording to train on."""


class FileCorpus:
    """Recordings of a folder, manifest or dataset, without those that cannot be decoded or are too short.

    Lengths are those of the decoded audio; `dropped` maps names to reasons. CorpusError if no recording is left.
    """

    def __init__(self, sources: Sequence[tuple[str, LazySource]], rate_hz: int, min_samples: int) -> None:
        self.rate_hz = rate_hz
        self.dropped: dict[str, str] = {}
        self._items: list[tuple[str, LazySource, int]] = []
        for name, source in sources:
            try:
                recording = opened(name, source)
                length = sum(len(block_N) for block_N in recording.blocks(rate_hz))
            except MertError as error:
                self.dropped[name] = str(error)
                continue
            except Exception as error:  # of what fetches a recording: one of them ends no run
                self.dropped[name] = f"{type(error).__name__}: {error}"
                continue
            if length < min_samples:
                clip_s = min_samples / rate_hz
                self.dropped[name] = f"{length / rate_hz:.2f} s are shorter than a clip of {clip_s:.2f} s"
            else:
                self._items.append((name, source, length))
                if recording.damaged:
                    log.warning("damaged %s: %s", name, "; ".join(recording.warnings))
        for name, reason in self.dropped.items():
            log.warning("dropped %s: %s", name, reason)
        if self.dropped:
            log.warning("dropped %d of %d recordings", len(self.dropped), len(sources))
        if not self._items:
            raise CorpusError(f"{len(sources)} recordings", "none can be used", "see the warnings, or give other data")
        facts = [[name, length] for name, _, length in self._items]
        self.fingerprint = hashlib.sha256(json.dumps([rate_hz, facts]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._items)

    def name(self, index: int) -> str:
        return self._items[index][0]

    def n_samples(self, index: int) -> int:
        return self._items[index][2]

    def read(self, index: int, start: int, n_samples: int) -> np.ndarray:
        """Float32 [N] from sample `start`; nothing after them is decoded."""
        blocks, end = [], 0
        for block_N in opened(*self._items[index][:2]).blocks(self.rate_hz):
            blocks.append(block_N[max(0, start - end) :])
            end += len(block_N)
            if end >= start + n_samples:
                break
        if end < start + n_samples:
            reason = f"ends after {end / self.rate_hz:.2f} s, and was longer when the run began"
            raise AudioError(self.name(index), reason, "leave recordings alone while they are trained on")
        return np.concatenate(blocks)[:n_samples]


def opened(name: str, source: LazySource) -> Recording:
    """The recording of a source, under its name in the corpus if it has no path."""
    data = source() if callable(source) else source
    recording = Recording(data)
    if not isinstance(data, str | os.PathLike):
        recording.name = name
    return recording


class GeneratedCorpus:
    """Clips of a generator (`read(index)` gives [N], a pure function of its seed), cut like recordings.

    Names contain the fingerprint of the generator, so that a label store of another generator is refused.
    """

    def __init__(self, generator: Any, rate_hz: int) -> None:
        self.rate_hz, self._generator = rate_hz, generator
        self.fingerprint = hashlib.sha256(repr(generator).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._generator)

    def name(self, index: int) -> str:
        return f"{self.fingerprint[:12]}/{index}"

    def n_samples(self, index: int) -> int:
        return round(self._generator.seconds * self.rate_hz)

    def read(self, index: int, start: int, n_samples: int) -> np.ndarray:
        return np.asarray(self._generator.read(index)[start : start + n_samples], dtype=np.float32)


class FirstClips:
    """The first few recordings of a corpus, to overfit on."""

    def __init__(self, corpus: Corpus, n_clips: int) -> None:
        self.rate_hz, self._n = corpus.rate_hz, min(n_clips, len(corpus))
        self.name, self.n_samples, self.read = corpus.name, corpus.n_samples, corpus.read
        self.fingerprint = hashlib.sha256(f"{corpus.fingerprint}:{self._n}".encode()).hexdigest()

    def __len__(self) -> int:
        return self._n


def open_corpus(data: str, rate_hz: int, min_samples: int, options: dict[str, Any]) -> Corpus:
    """A folder, a JSONL manifest (key `audio` or `path`), `hf:NAME`, or the name of an entry point `mert.corpora`.

    Recordings of fewer than `min_samples` at `rate_hz` are dropped. UsageError for data or options that do not exist,
    CorpusError if no recording is left.
    """
    if data.startswith("hf:"):
        return FileCorpus(list(_dataset_sources(data[3:], options)), rate_hz, min_samples)
    path = Path(data)
    if path.is_dir():
        files = sorted(audio_under(path, Counter()))
        return FileCorpus([(str(file.relative_to(path)), file) for file in files], rate_hz, min_samples)
    if path.is_file():
        return FileCorpus(list(_manifest_sources(path)), rate_hz, min_samples)
    for point in entry_points(group="mert.corpora", name=data):
        try:
            generated = GeneratedCorpus(point.load()(rate_hz=rate_hz, **options), rate_hz)
        except (TypeError, ValueError) as error:
            reason = f"{data} takes no such options ({error})"
            raise UsageError(f"data_options={options}", reason, "change them") from error
        if (seconds := generated.n_samples(0) / rate_hz) < min_samples / rate_hz:
            reason = f"its clips of {seconds:.2f} s are shorter than a clip to train on, {min_samples / rate_hz:.2f} s"
            raise UsageError(f"data={data}", reason, "lower clip_s, or raise data_options.seconds")
        return generated
    raise UsageError(f"data={data}", "no folder, manifest or generator", "give a folder, a .jsonl, hf:NAME or synth")


def _manifest_sources(path: Path) -> Iterator[tuple[str, Source]]:
    try:
        lines = lines_of(path)
    except UnicodeDecodeError as error:
        raise UsageError(path, f"is not UTF-8 (byte {error.start})", "save it in UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
                name = row.get("audio") or row["path"]
            except (ValueError, KeyError, AttributeError, RecursionError):
                name = None
            if not isinstance(name, str):
                raise UsageError(f"{path}:{number}", "no JSON object with a path", 'write {"path": "a.wav"}')
            yield name, path.parent / name


def _dataset_sources(name: str, options: dict[str, Any]) -> Iterator[tuple[str, LazySource]]:
    """Names begin with the number of the row, because the path in a dataset is often just `audio.wav`."""
    datasets = need("datasets", "train", f"hf:{name}")
    try:
        rows = datasets.load_dataset(name, **({"split": "train"} | options))
    except (TypeError, ValueError) as error:
        raise UsageError(f"hf:{name}", f"cannot be loaded with {options} ({error})", "change data_options") from error
    if "audio" not in rows.column_names:
        raise UsageError(f"hf:{name}", f"has no column audio, but {rows.column_names}", "name a dataset of audio")
    rows = rows.cast_column("audio", datasets.Audio(decode=False))
    for i, row in enumerate(rows):
        yield f"{i}:{Path(row['audio']['path'] or name).name}", partial(_audio_of, rows, i)


def _audio_of(rows: Any, i: int) -> Source:
    audio: dict[str, Source] = rows[i]["audio"]
    return audio["bytes"] or audio["path"]
