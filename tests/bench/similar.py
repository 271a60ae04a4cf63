"""Similar recordings among a million: building an index, opening it, exact queries, and queries by the graph.

Vectors are random: around 20,000 random centres of width 256, as recordings have neighbours. Needs 2 GB below --folder,
which are removed; without usearch (extra `index`) the graph is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from measuring import machine, named, write

from mert.collection import filters, neighbours
from mert.collection.columns import Row, Table, rewrite
from mert.collection.index import Index

WIDTH, CENTRES, SPREAD = 256, 20_000, 0.5
FACTS = {
    "layer": "layer05", "model": "random", "version": "0", "window": 1.0, "hop": 1.0, "weights_sha256": "0" * 64,
    "window_frames": 74, "hop_frames": 74, "normalize": True, "dtype": "float32",
}  # fmt: skip
OPENING = """
import sys, time, mert.collection.index as index
started = time.perf_counter(); held = index.Index.load(sys.argv[1]); print(time.perf_counter() - started)
"""


def vectors(n: int, seed: int) -> np.ndarray:
    """Float32 [n, 256], the centres being the same for every seed."""
    centres_CD = np.random.default_rng(0).normal(size=(CENTRES, WIDTH)).astype(np.float32)
    random = np.random.default_rng(seed)
    spread_ND = SPREAD * random.normal(size=(n, WIDTH)).astype(np.float32)
    return centres_CD[random.integers(0, CENTRES, n)] + spread_ND


def rows(n: int) -> Iterator[Row]:
    """Rows of an index, made as they are asked for."""
    for start in range(0, n, 10_000):
        for i, vector_D in enumerate(vectors(10_000, 1 + start), start):
            sha256 = hashlib.sha256(str(i).encode()).digest()
            yield Row(f"{i // 1000:04d}/{i:07d}.flac", 1, 1, sha256, 60.0 + i % 240, vector_D)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(index: Index, queries_ND: np.ndarray, **options: Any) -> tuple[float, list[list[str]]]:
    """Median seconds of a query behind a first one, and the names each query found."""
    times, found = [], []
    for query_D in queries_ND:
        started = time.perf_counter()
        matches = index.query(query_D, 10, **options)
        times.append(time.perf_counter() - started)
        found.append([match.name for match in matches])
    return statistics.median(times[1:]), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=Path("bench_out/similar.json"))
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    print(named(results["machine"]), "load", results["machine"]["load_before"])
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder, before = Path(temporary), peak_mb()
        state = replace(Table.empty(FACTS, np.zeros(WIDTH)).state, n_centred=1_000)
        started = time.perf_counter()
        rewrite(folder, state, rows(options.recordings))
        results["building, vectors made on the way"] = {"s": time.perf_counter() - started, "mb": peak_mb() - before}
        results["bytes a recording"] = sum(path.stat().st_size for path in folder.iterdir()) / options.recordings
        command = [sys.executable, "-c", OPENING, str(folder)]
        results["opening, in a fresh process, s"] = float(
            subprocess.run(command, check=True, capture_output=True).stdout
        )
        neighbours.GRAPH_FROM = 2**62
        index, queries_ND = Index.load(folder), vectors(options.queries, 0)
        results["exact query, s"], exact = timed(index, queries_ND)
        where = [filters.under("0007"), filters.within("seconds", 100, 200)]
        results["exact query with two filters, s"], _ = timed(index, queries_ND, where=where)
        results["exact query without versions, s"], _ = timed(index, queries_ND, versions=False)
        print(json.dumps(results, indent=1))
        if find_spec("usearch"):
            neighbours.GRAPH_FROM = 0
            started = time.perf_counter()
            neighbours.Graph.update(folder, Table.open(folder))
            results["making the graph, s"] = time.perf_counter() - started
            results["graph, bytes a recording"] = (
                sum(p.stat().st_size for p in folder.glob("*.usearch")) / options.recordings
            )
            index = Index.load(folder)
            results["query by the graph, s"], found = timed(index, queries_ND)
            same = [len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]
            results["of the ten nearest, the graph gives"] = statistics.mean(same)
    print(json.dumps(results, indent=1))
    write(results, options.out)


if __name__ == "__main__":
    main()
