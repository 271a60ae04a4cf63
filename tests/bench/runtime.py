"""Embedding by onnxruntime beside torch, in turns within one process: loading, and a minute of audio, all layers.

`python tests/bench/runtime.py` measures with one thread and with two, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import ROOT, interleaved, machine, write

import mert
from mert.embedding.embedder import Embedder
from mert.weights.onnx_export import export_folder

RATE = 24_000


def noise(seconds: float) -> np.ndarray:
    """Decaying noise, float32 [N]."""
    random = np.random.default_rng(0)
    return (0.1 * random.standard_normal(round(seconds * RATE)) * np.hanning(round(seconds * RATE))).astype(np.float32)


def measured(model: str, seconds: float, rounds: int) -> dict[str, float]:
    """Median milliseconds: loads, and a second of audio by each runtime and type."""
    wave_N = noise(seconds)
    with tempfile.TemporaryDirectory() as folder:
        by_torch, exported = mert.load(model, device="cpu"), export_folder(mert.load(model), folder)
        loads: dict[str, Callable[[], object]] = {
            "load: torch": lambda: mert.load(model, device="cpu"),
            "load: onnxruntime, from the weights": lambda: first_states(mert.runtime.load(model)),
            "load: onnxruntime, exported folder": lambda: first_states(mert.load(exported)),
        }
        by_onnx = mert.load(exported)

        def embedding(m: Embedder, dtype: str) -> Callable[[], object]:
            return lambda: m.embed(wave_N, sr=RATE, dtype=dtype)

        embeds = {f"torch {dtype}": embedding(by_torch, dtype) for dtype in ("float32", "bfloat16", "int8")}
        embeds |= {f"onnxruntime {dtype}": embedding(by_onnx, dtype) for dtype in ("float32", "int8")}
        results = {name: 1000 * s for name, s in interleaved(loads, rounds).items()}
        return results | {name: 1000 * s / seconds for name, s in interleaved(embeds, rounds).items()}


def first_states(m: Embedder) -> object:
    """A second through a model: its graph is opened when it is first used."""
    return m.embed(noise(1.0), sr=RATE)


def main() -> None:
    """Measure in a process for each number of threads; print, and write bench_out/runtime.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mert-nano")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        print(json.dumps(measured(options.model, options.seconds, options.rounds)))
        return
    results: dict[str, Any] = {}
    for threads in options.threads:
        line = [sys.executable, Path(__file__), "--within", "--model", options.model]
        line += ["--seconds", str(options.seconds), "--rounds", str(options.rounds)]
        done = subprocess.run(line, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=True, capture_output=True)
        results[str(threads)] = json.loads(done.stdout.splitlines()[-1])
    for name in next(iter(results.values())):
        print(f"{name:40}" + "".join(f"{result[name]:10.2f}" for result in results.values()))
    write({"machine": machine(), "milliseconds_by_threads": results}, ROOT / "bench_out" / "runtime.json")


if __name__ == "__main__":
    main()
