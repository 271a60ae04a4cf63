"""The full grid of one clip-level task at GTZAN's size: 14 layer options, 6 rates, 3 seeds, in one process.

Features are random with a weak class in them, so that heads train as long as real ones; nothing is extracted.
`--device cuda` fits a layer's heads as one stack, and times the plain loop beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from measuring import machine, write

from probes.clip_probe import ClipConfig, ClipProbe, Labelled
from probes.sweep import Grid, Journal, Setting, sweep

LAYERS = tuple(f"layer{i:02}" if i else "embed" for i in range(13))
SPLITS = (443, 197, 290)
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")


class Matrix:
    """13 layers of 768 for 930 clips; higher layers tell the class better."""

    layers = LAYERS

    def __init__(self, labels: np.ndarray) -> None:
        random = np.random.default_rng(0)
        self.values = random.standard_normal((len(labels), 13, 768)).astype(np.float16)
        centres = random.standard_normal((13, len(GENRES), 768))
        for layer in range(13):
            self.values[:, layer] += (0.02 + 0.008 * layer) * centres[layer, labels]

    def rows(self, ids: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(ids, dtype=int), np.arange(len(ids))

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
        values = self.values[rows][:, layer]
        return values.astype(np.float32) if values.ndim == 2 else values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("bench_out/probing.json"))
    options = parser.parse_args()
    labels = np.random.default_rng(1).integers(0, len(GENRES), sum(SPLITS))
    ends = np.cumsum((0, *SPLITS))
    parts = [np.arange(first, end) for first, end in pairwise(ends)]
    splits = [Labelled(tuple(map(str, part)), labels[part]) for part in parts]
    config = ClipConfig("classification", GENRES, "accuracy", patience=(6, 20))
    probe = ClipProbe(Matrix(labels), *splits, config=config, device=options.device)
    grid = Grid((*LAYERS, "all"))
    print(f"{probe.memory_bytes() / 2**20:.0f} MiB of features in memory at most")
    started = time.perf_counter()
    swept = sweep(grid, probe.fit, Journal(None, {}), len(grid.lrs) * len(grid.seeds))
    seconds = time.perf_counter() - started
    outputs = probe.outputs(swept.heads[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    measured = {"heads": len(swept.rows), "seconds": round(seconds, 1), "layer": swept.layer, "lr": swept.lr,
                "test_accuracy": round(float((outputs.argmax(1) == labels[parts[2]]).mean()), 3),
                "epochs": sum(row.epoch for row in swept.rows), "peak_mib": round(peak),
                "device": options.device}  # fmt: skip
    if options.device != "cpu":
        settings = [Setting("layer12", lr, seed) for lr in grid.lrs for seed in grid.seeds]
        list(probe.fit(settings[:1]))
        timed = []
        for group in ([[setting] for setting in settings], [settings]):
            started = time.perf_counter()
            for some in group:
                list(probe.fit(some))
            timed.append(time.perf_counter() - started)
        measured |= {"plain_loop_over_stack": round(timed[0] / timed[1], 1)}
    print(json.dumps(measured))
    write({"machine": machine()} | measured, options.out)


if __name__ == "__main__":
    main()
