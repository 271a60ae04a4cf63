"""Recordings ranked by the similarity of their features: one vector each, in an index that is saved and updated.

Shapes: N recordings, T frames, D model width.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mert.audio.recording import Recording
from mert.collection.extraction import Extraction, extract
from mert.embedding.batching import Settings
from mert.embedding.embedder import Embedder, EmbedOptions
from mert.embedding.features import Features, Pooling, Provenance, differences
from mert.embedding.npz import read_npz, write_npz
from mert.errors import AudioError, OutputError, UsageError
from mert.files import sha256_file

SCHEMA = 1
SETTLED_NS = 2_000_000_000  # clocks of file systems are coarse: a file changed twice within them looks unchanged
KEYS = ("names", "sizes", "mtimes_ns", "sha256", "vectors", "meta")


class Match(NamedTuple):
    """One recording of an index and its similarity to the query, -1 to 1."""

    name: str
    similarity: float


@dataclass(frozen=True)
class Stamp:
    """How a file is recognised: by size and time of change, and if these differ, by its bytes."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file as it is now; AudioError if it cannot be read."""
        try:
            status = path.stat()
            settled = time.time_ns() - status.st_mtime_ns > SETTLED_NS
            return cls(status.st_size, status.st_mtime_ns if settled else -1, sha256_file(path))
        except OSError as error:
            raise AudioError(path, f"cannot be read ({error.strerror})", "check the path and permissions") from None

    def fits(self, path: Path) -> bool:
        """Whether a file looks unchanged."""
        try:
            status = path.stat()
        except OSError:
            return False  # reading it raises the error
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


def similarity(
    a: Features | np.ndarray, b: Features | np.ndarray, layer: str | None = None, centre: np.ndarray | None = None
) -> float:
    """Cosine of two recordings, each one layer (default: the last held) averaged over time; arrays are [D] or [T, D].

    Without a centre (that of an index) all similarities are high, and only their order is informative.
    ValueError for features of different models or layers.

    >>> similarity(np.array([1.0, 0.0]), np.array([[1.0, 0.0], [1.0, 2.0]])).__round__(3)
    0.707
    """
    if isinstance(a, Features) and isinstance(b, Features):
        if a.meta.get("weights_sha256") != b.meta.get("weights_sha256"):
            raise ValueError(f"features of {a.meta.get('model')} and {b.meta.get('model')} have nothing in common")
        if layer is None and a.layers[-1] != b.layers[-1]:
            raise ValueError(f"the last layers are {a.layers[-1]} and {b.layers[-1]}: name one with layer=")
    vectors_2D = np.stack((pooled(a, layer), pooled(b, layer)))
    one_D, other_D = directions(vectors_2D, np.zeros(vectors_2D.shape[1]) if centre is None else centre)
    return float(one_D @ other_D)


def pooled(recording: Features | np.ndarray, layer: str | None = None) -> np.ndarray:
    """The vector [D] of a recording, in float64."""
    values = recording.layer(layer or recording.layers[-1]) if isinstance(recording, Features) else recording
    values = np.asarray(values, np.float64)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(f"a recording is a vector [D] or frames [T, D], not an array of shape {values.shape}")
    return values if values.ndim == 1 else values.mean(axis=0)


def directions(vectors_ND: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
    """Unit vectors [N, D] from the centre to each vector; zero where a vector is the centre."""
    offsets_ND = vectors_ND - centre_D
    return offsets_ND / np.maximum(np.linalg.norm(offsets_ND, axis=1, keepdims=True), 1e-12)


def shown(facts: dict[str, Any], fact: str) -> str:
    """A fact in words."""
    if fact == "weights_sha256":
        return f"model {facts.get('model')} (sha256 {str(facts.get(fact))[:8]})"
    fact = fact.removesuffix("_frames")  # window and hop are shown in seconds
    return str(facts.get(fact)) if fact == "layer" else f"{fact} {facts.get(fact)}"


class VectorExtraction(Extraction):
    """The vector [D] of one file, from the index if that holds a file of the same bytes."""

    def __init__(self, path: str | Path, index: Index, name: str | None = None) -> None:
        super().__init__(path)
        self.path, self.index_name = Path(path), name
        self._index, self._pooled = index, Pooling("mean")

    def is_needed(self) -> bool:
        """Whether no vector is known for the bytes of the file; AudioError if it cannot be read."""
        self.stamp = Stamp.of(self.path)
        return self.stamp.sha256 not in self._index.by_sha256

    def add(self, values_LTD: np.ndarray) -> None:
        """Add frames to the mean."""
        self._pooled.add(values_LTD)

    def finish(self) -> None:
        """Hold the vector [D], and under its name (if it has one) the recording."""
        if self._pooled.count:
            self._index.by_sha256[self.stamp.sha256] = self._pooled.result()[0]
        self.vector = self._index.by_sha256[self.stamp.sha256]
        if self.index_name is not None:
            self._index.stamps[self.index_name] = self.stamp


def vector_options(layer: str | int, window: float | str | None, dtype: str = "auto") -> EmbedOptions:
    """How the vectors of an index are extracted: the mean over time of one layer."""
    return EmbedOptions(layers=[layer], pool="mean", window=window, dtype=dtype)


def index_facts(embedder: Embedder, settings: Settings) -> dict[str, Any]:
    """The facts of an index of such vectors."""
    (layer,) = embedder.names(settings)
    meta = embedder.meta(Recording(b""), settings) | {"layer": layer}
    return asdict(embedder.provenance(settings)) | {
        fact: meta[fact] for fact in ("layer", "model", "window", "hop", "version")
    }


class Index:
    """Vectors of recordings below a folder, by relative path, and the facts that make vectors comparable.

    `index = Index.build(m, Path("my_music").rglob("*.wav"), "my_music")`, then `index.query(m.embed("song.mp3"))`.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.stamps: dict[str, Stamp] = {}
        self.by_sha256: dict[str, np.ndarray] = {}  # vectors, also of queries and of files with a former name

    @classmethod
    def build(
        cls, embedder: Embedder, paths: Iterable[str | Path], folder: str | Path = ".",
        layer: str | int = "recommended", window: float | str | None = None,
    ) -> Index:  # fmt: skip
        """Embed recordings, named by paths relative to `folder`; AudioError for the first that cannot be used."""
        settings = embedder.settings(vector_options(layer, window))
        index = cls(index_facts(embedder, settings))
        names = (Path(os.path.relpath(path, folder)).as_posix() for path in paths)
        for extraction in index.update(embedder, settings, folder, names):
            if extraction.error:
                raise extraction.error
        return index

    def update(
        self, embedder: Embedder, settings: Settings, folder: str | Path, names: Iterable[str]
    ) -> Iterator[VectorExtraction]:
        """Hold recordings as they are now, each when it is yielded; only those of new bytes are embedded.

        A recording that cannot be used is yielded with its `error` and is not held.
        """
        extractions = (VectorExtraction(Path(folder, name), self, name) for name in names)
        for extraction in extract(embedder, settings, extractions):
            if extraction.error:
                self.stamps.pop(str(extraction.index_name), None)
            yield extraction

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def names(self) -> list[str]:
        """Relative paths of the recordings held, in the order of `vectors`."""
        return list(self.stamps)

    @property
    def vectors(self) -> np.ndarray:
        """Float32 vectors [N, D], not centred."""
        return np.stack([self.by_sha256[stamp.sha256] for stamp in self.stamps.values()])

    @property
    def centre(self) -> np.ndarray:
        """The origin of similarities: the mean of all vectors, or zero where there are not two.

        Means of a transformer's states share a large common direction, a few units that are high for any sound:
        around zero all recordings are alike.
        """
        vectors_ND = self.vectors.astype(np.float64)
        return vectors_ND.mean(axis=0) if len(vectors_ND) > 1 else np.zeros(vectors_ND.shape[1])

    def outdated(self, folder: str | Path, names: Collection[str]) -> tuple[list[str], list[str]]:
        """(names that are new or look changed, names held that are no longer in `names`); the latter are dropped."""
        gone = sorted(set(self.stamps) - set(names))
        for name in gone:
            del self.stamps[name]
        return [n for n in names if n not in self.stamps or not self.stamps[n].fits(Path(folder, n))], gone

    def query(self, features: Features | np.ndarray, k: int = 10, without: Collection[str] = ()) -> list[Match]:
        """The `k` recordings nearest to features or an array [D] or [T, D], by cosine around the centre.

        Recordings whose SHA-256 is in `without` are left out. UsageError for features extracted in another way.
        """
        layer = self.facts["layer"]
        if isinstance(features, Features):
            theirs = features.meta | {"layer": layer if layer in features.layers else " ".join(features.layers)}
            if difference := self.difference(theirs):
                raise UsageError("index", f"was made with {difference}", "embed both in one way")
        if not self.stamps:
            return []
        centre_D = self.centre
        vector_D = pooled(features, layer)
        if vector_D.shape != centre_D.shape:
            raise ValueError(f"a vector of width {len(vector_D)}, where the index has {len(centre_D)}")
        cosines_N = directions(self.vectors, centre_D) @ directions(vector_D[None], centre_D)[0]
        recordings = zip(self.stamps.items(), cosines_N.tolist(), strict=True)
        matches = [Match(name, cosine) for (name, stamp), cosine in recordings if stamp.sha256 not in without]
        return sorted(matches, key=lambda match: (-match.similarity, match.name))[:k]

    def difference(self, facts: dict[str, Any]) -> str | None:
        """Why vectors of these facts cannot be compared with those held: "layer07, not layer12"."""
        differing = differences(Provenance.of(self.facts), Provenance.of(facts))
        if self.facts["layer"] != facts.get("layer"):
            differing.append("layer")
        return f"{shown(self.facts, differing[0])}, not {shown(facts, differing[0])}" if differing else None

    def save(self, path: str | Path) -> None:
        """Write `.npz` (no pickle), whole or not at all; OutputError where the disk refuses."""
        stamps = list(self.stamps.values())
        arrays = {
            "names": np.array(self.names, dtype=str),
            "sizes": np.array([stamp.size for stamp in stamps], np.int64),
            "mtimes_ns": np.array([stamp.mtime_ns for stamp in stamps], np.int64),
            "sha256": np.array([stamp.sha256 for stamp in stamps], dtype=str),
            "vectors": self.vectors if stamps else np.zeros((0, 0), np.float32),
            "meta": np.array(json.dumps({"format": "mert-index", "schema": SCHEMA} | self.facts)),
        }
        write_npz(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Index:
        """The inverse of `save`; OutputError for files that are damaged or are no index."""
        try:
            arrays = read_npz(path, KEYS)
            meta = json.loads(str(arrays["meta"]))
            if (meta.pop("format"), meta.pop("schema")) != ("mert-index", SCHEMA):
                raise ValueError(f"not of format mert-index, schema {SCHEMA}")
            if missing := Provenance.missing(meta) + ([] if "layer" in meta else ["layer"]):
                raise ValueError(f"no {', '.join(missing)}")
            return cls(meta)._filled(arrays)
        except (OutputError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = error.reason if isinstance(error, OutputError) else f"{type(error).__name__}: {error}"
            remedy = "check the path, or build it again (mert similar --rebuild)"
            raise OutputError(path, f"is no index, or damaged ({reason})", remedy) from None

    def _filled(self, arrays: dict[str, np.ndarray]) -> Index:
        names, vectors_ND = arrays["names"], arrays["vectors"]
        if vectors_ND.ndim != 2 or not np.isfinite(vectors_ND).all():
            raise ValueError("its vectors are not finite numbers [N, D]")
        columns = (names, arrays["sizes"], arrays["mtimes_ns"], arrays["sha256"], vectors_ND)
        for name, size, mtime_ns, sha256, vector_D in zip(*columns, strict=True):
            self.stamps[str(name)] = Stamp(int(size), int(mtime_ns), str(sha256))
            self.by_sha256[str(sha256)] = vector_D
        return self
