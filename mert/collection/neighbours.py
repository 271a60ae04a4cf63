"""The nearest of many directions: exactly, in blocks over a mapped matrix, or by a graph beside it (extra `index`).

Shapes: N rows, D model width.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mert.collection.columns import Table, path_of
from mert.errors import need
from mert.files import read_json, write_json, write_whole
from mert.weights.networks import has_torch

BLOCK = 2**18  # rows to a product: small ones cost more in starting threads than in reading
# Of a product in half precision: its query, its sum and its result are each off by at most 2^-11 of a cosine of 1.
ROUNDING = 2e-3
ADDED = 4096  # rows that a graph takes at once: between them Ctrl-C takes effect
GRAPH_FROM = 1_000_000  # recordings; up to there the exact search takes less than 0.2 s
BREADTH = 256  # rows that a search of a graph keeps in view: more find more, and take longer
WIDER = 10  # times as many rows are asked of a graph as are wanted: some are gone, or filtered out


def nearest(table: Table, query_D: np.ndarray, centre_D: np.ndarray, k: int, wanted_N: np.ndarray) -> list[int]:
    """At least the `k` rows nearest to a unit vector among those that are wanted, in any order.

    Rows whose cosine is within the rounding of half precision of the k-th are given, too: the caller computes their
    cosines exactly. `centre_D` is the origin where the table holds vectors, not directions.
    """
    scores_N = _scores(table, query_D, centre_D)
    scores_N[~wanted_N] = -np.inf
    least = -np.inf
    if k < len(scores_N):
        least = np.partition(scores_N, -k)[-k] - 2 * ROUNDING
    return np.flatnonzero(wanted_N & (scores_N >= least)).tolist()


def above(table: Table, query_D: np.ndarray, centre_D: np.ndarray, cosine: float) -> int:
    """How many rows may have at least this cosine."""
    return int(np.count_nonzero(_scores(table, query_D, centre_D) >= cosine - ROUNDING))


def _scores(table: Table, query_D: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
    """Cosines [N] of all rows, within ROUNDING."""
    scores_N = np.empty(len(table), np.float32)
    for start in range(0, len(table), BLOCK):
        some = slice(start, start + BLOCK)
        if table.state.dtype == "float16":
            scores_N[some] = _product(table.vectors_ND[some], query_D.astype(np.float16))
        else:
            scores_N[some] = table.directions(some, centre_D) @ query_D
    return np.nan_to_num(scores_N, copy=False, nan=-1)


def _product(vectors_ND: np.ndarray, query_D: np.ndarray) -> np.ndarray:
    """The product of float16 numbers, by torch where it is installed: numpy has no fast one."""
    if not has_torch():
        return vectors_ND.astype(np.float32) @ query_D.astype(np.float32)
    import torch

    return torch.mv(torch.from_numpy(vectors_ND), torch.from_numpy(query_D)).numpy()


class Graph:
    """Approximate neighbours among the rows of one generation of a table, by usearch (HNSW)."""

    def __init__(self, graph: Any, n_rows: int) -> None:
        self._graph, self.n_rows = graph, n_rows
        self._graph.expansion_search = BREADTH

    @staticmethod
    def pays(table: Table) -> bool:
        """Whether a table is so large that a graph is worth its making, and usearch is installed."""
        return table.state.dtype == "float16" and len(table) > GRAPH_FROM and find_spec("usearch") is not None

    @classmethod
    def open(cls, folder: Path, table: Table) -> Graph | None:
        """The graph kept beside a table, mapped; None if there is none that belongs to its rows."""
        path, record = _paths(folder, table)
        with suppress(Exception):  # what a damaged graph raises has no common type; it is made again
            about = read_json(record)
            if about["bytes"] == path.stat().st_size and about["n_rows"] <= len(table):
                graph = need("usearch.index", "index", str(path)).Index.restore(str(path), view=True)
                if graph is not None and len(graph) == about["n_rows"] and graph.ndim == table.state.width:
                    return cls(graph, about["n_rows"])
        return None

    @classmethod
    def update(cls, folder: Path, table: Table) -> Graph:
        """A graph of all rows, written beside the table; rows of one that belongs to it are not added again."""
        usearch = need("usearch.index", "index", str(folder))
        path, record = _paths(folder, table)
        held = cls.open(folder, table)
        if held and held.n_rows == len(table):
            return held
        graph = usearch.Index(ndim=table.state.width, metric="ip", dtype="f16")
        if held:
            graph.load(str(path))
        for start in range(held.n_rows if held else 0, len(table), ADDED):
            block_ND = table.vectors_ND[start : start + ADDED]
            graph.add(np.arange(start, start + len(block_ND), dtype=np.uint64), block_ND)
        record.unlink(missing_ok=True)  # it says that the graph is whole
        with write_whole(path) as temporary:
            graph.save(str(temporary))
        write_json(record, {"n_rows": len(table), "bytes": path.stat().st_size})
        return cls(graph, len(table))

    def nearest(self, query_D: np.ndarray, k: int, wanted_N: np.ndarray) -> list[int] | None:
        """About the `k` nearest of the wanted rows; None where the graph does not give so many."""
        found = self._graph.search(query_D.astype(np.float16), WIDER * k).keys.astype(np.int64)
        rows = found[wanted_N[found]].tolist()
        return rows if len(rows) >= k else None


def _paths(folder: Path, table: Table) -> tuple[Path, Path]:
    path = path_of(folder, table.state, "graph").with_suffix(".usearch")
    return path, path.with_suffix(".graph")
