"""Recordings ranked by the similarity of their features: one vector each, in an index that grows on the disk.

Shapes: N rows, T frames, D model width.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mert.collection import neighbours
from mert.collection.columns import STATE, Row, State, Table, append, damaged, directions, rewrite
from mert.collection.extraction import extract
from mert.collection.filters import Filter
from mert.collection.neighbours import Graph
from mert.collection.old_index import lacking_facts, read_old
from mert.collection.vectors import Stamp, VectorExtraction, index_facts, vector_options
from mert.embedding.batching import Settings
from mert.embedding.embedder import Embedder
from mert.embedding.features import Features, Provenance, differences
from mert.errors import OutputError, UsageError
from mert.files import only_process

LOCK = ".lock"
SETTLED = 1_000  # recordings from which on the centre that was measured is kept for good
COMPACTED = 10_000  # rows from which on an index is written anew once most of them are gone
# In mert-nano, of copies of 200 clips of 4 s, all MP3s and quieter ones were above it, 96 % of those without their last
# fifth, and none of 700 other clips (tests/bench/versions.py).
VERSION_FROM = 0.95


class Match(NamedTuple):
    """One recording of an index and its similarity to the query, -1 to 1.

    Copies in another format, at another level or a little shorter mostly have one of at least `VERSION_FROM`.
    """

    name: str
    similarity: float

    @property
    def is_version(self) -> bool:
        """Whether it is so near that it is rather a copy of the query than something like it."""
        return self.similarity >= VERSION_FROM


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


def shown(facts: dict[str, Any], fact: str) -> str:
    """A fact in words."""
    if fact == "weights_sha256":
        return f"model {facts.get('model')} (sha256 {str(facts.get(fact))[:8]})"
    fact = fact.removesuffix("_frames")  # window and hop are shown in seconds
    return str(facts.get(fact)) if fact == "layer" else f"{fact} {facts.get(fact)}"


def folder_of(path: str | Path) -> Path:
    """The folder of an index: a path as it is, or without the `.npz` that the index of older versions had.

    >>> folder_of("music/.mert-index.npz").as_posix()
    'music/.mert-index'
    """
    path = Path(path)
    return path.with_suffix("") if path.suffix == ".npz" else path


class Index:
    """Vectors of recordings below a folder, by relative path, and the facts that make vectors comparable.

    `index = Index.build(m, Path("my_music").rglob("*.wav"), "my_music")`, then `index.query(m.embed("song.mp3"))`.
    What is added waits in memory for `commit`, if the index is `kept_in` a folder; `save` and `load` are for the whole.
    """

    def __init__(self, facts: dict[str, Any], centre_D: np.ndarray | None = None) -> None:
        self.facts = facts
        self.n_embedded = 0  # recordings of bytes that were new to it
        self._folder: Path | None = None
        self._graph: Graph | None = None
        self._use(Table.empty(facts, centre_D))

    def _use(self, table: Table) -> None:
        """Go on from a table, with nothing added."""
        self._table, self._centre_D, self._n_centred = table, None, table.state.n_centred
        if table.state.centre is not None:
            self._centre_D = np.asarray(table.state.centre, np.float64)
        self._added: list[Row] = []
        self._rows: dict[str, int | None] = {}  # of names whose row in the table no longer counts
        self._known: dict[bytes, tuple[np.ndarray, float]] = {}  # vector and seconds of what is in no table yet
        self._held: set[bytes] = set()  # those that are counted, or were not embedded here
        self._parts: list[tuple[int, Table, np.ndarray]] = []  # see _all

    @classmethod
    def build(
        cls, embedder: Embedder, paths: Iterable[str | Path], folder: str | Path = ".",
        layer: str | int = "recommended", window: float | str | None = None,
    ) -> Index:  # fmt: skip
        """Embed recordings, named by paths relative to `folder`; AudioError for the first that cannot be used."""
        settings = embedder.settings(vector_options(layer, window))
        facts = index_facts(embedder, settings)
        index = cls(facts, embedder.centre(facts["layer"]))
        names = (Path(os.path.relpath(path, folder)).as_posix() for path in paths)
        for extraction in index.update(embedder, settings, folder, names):
            if extraction.error:
                raise extraction.error
        index.settle()
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
                self.drop(str(extraction.index_name))
            yield extraction

    def knows(self, sha256: str) -> bool:
        """Whether it has a vector of these bytes."""
        sha = bytes.fromhex(sha256)
        return self._table.row_of_sha256(sha) is not None or sha in self._known

    def remember(self, sha256: str, vector_D: np.ndarray, seconds: float = float("nan")) -> None:
        """Have a vector at hand for recordings of these bytes."""
        self._known[bytes.fromhex(sha256)] = np.asarray(vector_D, np.float32), seconds

    def _recalled(self, sha256: str) -> tuple[np.ndarray, float]:
        sha = bytes.fromhex(sha256)
        if sha in self._known:
            return self._known[sha]
        row = self._table.row_of_sha256(sha)
        if row is None:
            raise KeyError(sha256)
        return self._table.vectors(slice(row, row + 1))[0], float(self._table.columns["seconds"][row])

    def vector(self, sha256: str) -> np.ndarray:
        """The float32 vector [D] of these bytes; KeyError if there is none."""
        return self._recalled(sha256)[0]

    def hold(self, name: str, stamp: Stamp) -> None:
        """Hold a recording whose vector is known, in place of one of the same name."""
        sha = bytes.fromhex(stamp.sha256)
        if sha in self._known and sha not in self._held:
            self.n_embedded += 1
            self._held.add(sha)
        vector_D, seconds = self._recalled(stamp.sha256)
        replaced = self._row_of(name)
        self._append(
            Row(name, stamp.size, stamp.mtime_ns, sha, seconds, vector_D, -1 if replaced is None else replaced)
        )
        self._rows[name] = len(self._table) + len(self._added) - 1

    def lay_by(self, sha256: str, vector_D: np.ndarray) -> None:
        """Have a vector at hand for good, for recordings of these bytes that may come."""
        self.remember(sha256, vector_D)
        self._held.add(bytes.fromhex(sha256))
        self._append(Row("", sha256=bytes.fromhex(sha256), vector_D=np.asarray(vector_D, np.float32)))

    @property
    def n_waiting(self) -> int:
        """How many rows `commit` would write."""
        return len(self._added)

    @property
    def is_finished(self) -> bool:
        """Whether `finish` would change nothing: all is on the disk, and a graph where that pays."""
        has_centre = self._centre_D is not None or len(self) < 2
        return self._folder is not None and not self._added and has_centre and not self.needs_graph

    @property
    def needs_graph(self) -> bool:
        """Whether `finish` will make or extend a graph, which takes minutes."""
        return self._graph is None and Graph.pays(self._table)

    def n_without(self, column: str) -> int:
        """How many recordings have no value (NaN) in a column."""
        return sum(int(np.isnan(table.columns[column][live_N]).sum()) for _, table, live_N in self._all())

    def drop(self, name: str) -> None:
        """No longer hold a recording, if it is held."""
        if (row := self._row_of(name)) is not None:
            self._append(Row("", replaces=row))
            self._rows[name] = None

    def _append(self, row: Row) -> None:
        self._added.append(row)
        self._parts = []

    def _row_of(self, name: str) -> int | None:
        return self._rows[name] if name in self._rows else self._table.row_of_name(name)

    def _all(self) -> list[tuple[int, Table, np.ndarray]]:
        """The table and what was added to it: the number of the first row, the rows, and which are held [N]."""
        if not self._parts:
            n, added = len(self._table), Table.of(self.facts, self._added)
            ended = np.array([row.replaces for row in self._added if row.replaces >= 0], np.int64)
            live_N = np.concatenate((self._table.is_live, added.name_lengths > 0))
            live_N[ended] = False
            self._parts = [(0, self._table, live_N[:n]), (n, added, live_N[n:])]
        return self._parts

    def __len__(self) -> int:
        return sum(int(np.count_nonzero(live_N)) for _, _, live_N in self._all())

    @property
    def stamps(self) -> dict[str, Stamp]:
        """How the file of each recording is recognised."""
        stamps = {}
        for _, table, live_N in self._all():
            for row in np.flatnonzero(live_N).tolist():
                size, mtime_ns = (int(table.columns[column][row]) for column in ("size", "mtime_ns"))
                stamps[table.name(row)] = Stamp(size, mtime_ns, table.columns["sha256"][row].tobytes().hex())
        return stamps

    @property
    def names(self) -> list[str]:
        """Relative paths of the recordings held, in the order of `vectors`."""
        return [table.name(row) for _, table, live_N in self._all() for row in np.flatnonzero(live_N).tolist()]

    def recordings(self, n: int) -> Iterator[tuple[list[str], list[str], np.ndarray]]:
        """Names, SHA-256 and float32 vectors [n, D] of the recordings held, `n` at a time."""
        for _, table, live_N in self._all():
            rows = np.flatnonzero(live_N)
            for some in (rows[start : start + n] for start in range(0, len(rows), n)):
                sha256s = [table.columns["sha256"][row].tobytes().hex() for row in some]
                yield [table.name(row) for row in some.tolist()], sha256s, table.vectors(some)

    @property
    def vectors(self) -> np.ndarray:
        """Float32 vectors [N, D], not centred, all in memory; `recordings` gives a few at a time."""
        blocks = [vectors_ND for *_, vectors_ND in self.recordings(neighbours.BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self._table.state.width), np.float32)

    @property
    def centre(self) -> np.ndarray:
        """The origin of similarities: that of the model, or the mean of the vectors when they were last measured.

        Means of a transformer's states share a large common direction, a few units that are high for any sound:
        around zero all recordings are alike. A mean of fewer than two vectors is no centre: then it is zero.
        """
        return self._mean() if self._centre_D is None else self._centre_D

    def _mean(self) -> np.ndarray:
        n = len(self)
        sums = [vectors_ND.sum(axis=0, dtype=np.float64) for *_, vectors_ND in self.recordings(neighbours.BLOCK)]
        return sum(sums[1:], sums[0]) / n if n > 1 else np.zeros(len(sums[0]) if sums else 0)

    def settle(self, ended: bool = True) -> None:
        """Measure the centre, unless that of the model or of at least 1,000 recordings is on record.

        A smaller collection is measured when it has `ended`, and again once it has doubled: a centre of few
        recordings does not fit the many that follow, and one that changed with each would change every similarity.
        """
        n, before = len(self), self._n_centred
        if before is None or before >= SETTLED:
            return
        if n >= SETTLED or (ended and n >= max(2, 2 * before)):
            self._centre_D, self._n_centred = self._mean(), n

    def outdated(self, folder: str | Path, names: Collection[str]) -> tuple[list[str], list[str]]:
        """(names that are new or look changed, names held that are no longer in `names`); the latter are dropped."""
        gone = sorted(set(self.names) - set(names))
        for name in gone:
            self.drop(name)
        return [name for name in names if not self._fits(name, Path(folder, name))], gone

    def _fits(self, name: str, path: Path) -> bool:
        if (row := self._row_of(name)) is None:
            return False
        first, table, _ = self._all()[row >= len(self._table)]
        size, mtime_ns = (int(table.columns[column][row - first]) for column in ("size", "mtime_ns"))
        return Stamp(size, mtime_ns, "").fits(path)

    def query(
        self, features: Features | np.ndarray, k: int = 10, without: Collection[str] = (),
        where: Collection[Filter] = (), versions: bool = True,
    ) -> list[Match]:  # fmt: skip
        """The `k` recordings nearest to features or an array [D] or [T, D], by cosine around the centre.

        Recordings whose SHA-256 is in `without` are left out, those that do not pass each filter in `where`, and
        without `versions` those that are versions of the query. UsageError for features extracted in another way.
        """
        layer = self.facts["layer"]
        if isinstance(features, Features):
            theirs = features.meta | {"layer": layer if layer in features.layers else " ".join(features.layers)}
            if difference := self.difference(theirs):
                raise UsageError("index", f"was made with {difference}", "embed both in one way")
        if not len(self):
            return []
        centre_D, vector_D = self.centre, pooled(features, layer)
        if vector_D.shape != centre_D.shape:
            raise ValueError(f"a vector of width {len(vector_D)}, where the index has {len(centre_D)}")
        query_D = directions(vector_D[None], centre_D)[0]
        found: list[Match] = []
        for first, table, live_N in self._all():
            wanted_N = self._wanted(table, live_N, without, where)
            if not wanted_N.any():
                continue
            rows = np.array(self._near(table, query_D, centre_D, k, wanted_N, versions, first > 0), np.int64)
            cosines_N = np.clip(table.directions(rows, centre_D) @ query_D, -1, 1)
            found += [Match(table.name(row), cosine) for row, cosine in zip(rows, cosines_N.tolist(), strict=True)]
        kept = [match for match in found if versions or not match.is_version]
        return sorted(kept, key=lambda match: (-match.similarity, match.name))[:k]

    @staticmethod
    def _wanted(table: Table, live_N: np.ndarray, without: Collection[str], where: Collection[Filter]) -> np.ndarray:
        wanted_N = live_N.copy()
        for sha256 in without:
            wanted_N[table.rows_of_sha256(bytes.fromhex(sha256))] = False
        for passes in where:
            wanted_N &= passes(table)
        return wanted_N

    def _near(
        self, table: Table, query_D: np.ndarray, centre_D: np.ndarray, k: int, wanted_N: np.ndarray, versions: bool,
        is_added: bool,
    ) -> list[int]:  # fmt: skip
        if self._graph and versions and not is_added and (rows := self._graph.nearest(query_D, k, wanted_N)):
            return rows
        if not versions:
            k += neighbours.above(table, query_D, centre_D, VERSION_FROM)
        return neighbours.nearest(table, query_D, centre_D, k, wanted_N)

    def difference(self, facts: dict[str, Any]) -> str | None:
        """Why vectors of these facts cannot be compared with those held: "layer07, not layer12"."""
        differing = differences(Provenance.of(self.facts), Provenance.of(facts))
        if self.facts["layer"] != facts.get("layer"):
            differing.append("layer")
        return f"{shown(self.facts, differing[0])}, not {shown(facts, differing[0])}" if differing else None

    @contextmanager
    def kept_in(self, path: str | Path, over: bool = True) -> Iterator[None]:
        """Within the block it is kept in a folder, which holds what it has now, and what is added at each `commit`.

        It takes the place of another index that is there, if `over` is true. UsageError if not, and while
        another process writes there; OutputError where the disk refuses.
        """
        folder = folder_of(path)
        strangers = [name for name in os.listdir(folder) if not name.startswith(".")] if folder.is_dir() else []
        if not (folder / STATE).exists() and any(not name.endswith(".bin") for name in strangers):
            raise OutputError(folder, "holds other files, and no index", "name a folder of its own")
        with only_process(folder, LOCK, "another process writes this index"):
            is_mine = self._folder == folder
            if State.read(folder) != self._table.state if is_mine else not over and (folder / STATE).exists():
                raise UsageError(folder, "has been changed by another process", "run the same command again")
            if not is_mine:
                before, self._folder = self._folder, folder
                try:
                    self._rewrite(everything=True)
                except BaseException:
                    self._folder = before
                    raise
            yield

    def commit(self) -> None:
        """Have all that was added on the disk, in the folder that it is kept in; a kill loses only what follows."""
        assert self._folder is not None, "commit within kept_in"
        self.settle(ended=False)
        if self._state().dtype != self._table.state.dtype:
            self._rewrite(everything=True)
        else:
            self._now(append(self._folder, self._state(), self._added))

    def finish(self) -> None:
        """`commit`, with a centre; most rows being gone, the others are written anew, and a graph where that pays."""
        assert self._folder is not None, "finish within kept_in"
        self.settle()
        self.commit()
        if len(self._table) > max(COMPACTED, 2 * len(self)):
            self._rewrite(everything=False)
        if Graph.pays(self._table):
            self._graph = Graph.update(self._folder, self._table)

    def _state(self) -> State:
        """That of the table, with the centre as it is to be from now on."""
        is_settled = self._n_centred is None or self._n_centred >= SETTLED
        centre = None if self._centre_D is None else self._centre_D.tolist()
        dtype = "float16" if is_settled else "float32"
        return replace(self._table.state, centre=centre, n_centred=self._n_centred, dtype=dtype, facts=self.facts)

    def _rewrite(self, everything: bool) -> None:
        """Write the rows into new files: all of them, or those that are held."""
        assert self._folder is not None
        numbers = np.arange(len(self._table)) if everything else np.flatnonzero(self._table.is_live)
        rows = chain(self._table.rows(numbers, replaced=everything), self._added)
        self._now(rewrite(self._folder, self._state(), rows))

    def _now(self, state: State) -> None:
        assert self._folder is not None
        known = {sha: self._known[sha] for sha in self._known.keys() - {row.sha256 for row in self._added}}
        self._use(Table.open(self._folder))
        self._known, self._graph = known, None

    def save(self, path: str | Path) -> None:
        """Write it into a folder, whole or not at all (see `folder_of`); OutputError where the disk refuses."""
        with self.kept_in(path):
            self.finish()

    @classmethod
    def load(cls, path: str | Path) -> Index:
        """The inverse of `save`, in milliseconds: what it holds is mapped. OutputError for what is damaged or no index.

        The `.npz` of older versions, of the same name as the folder, is read where there is no folder yet.
        """
        folder = folder_of(path)
        old = folder.with_name(f"{folder.name}.npz")
        if not (folder / STATE).exists() and old.exists():
            index = cls((read := read_old(old))[0])
            for name, stamp, vector_D in read[1]:
                index.remember(stamp.sha256, vector_D)
                index.hold(name, stamp)
            index.n_embedded = 0
            return index
        table = Table.open(folder)
        if lacking := lacking_facts(table.state.facts):
            raise damaged(folder, f"no {', '.join(lacking)}")
        index = cls(table.state.facts)
        index._folder = folder
        index._use(table)
        if Graph.pays(table) and (graph := Graph.open(folder, table)) and graph.n_rows == len(table):
            index._graph = graph
        return index
