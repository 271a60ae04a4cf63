"""MuQ-large with random weights: the official class, the network in plain torch, and the fast path, in turns.

`MERT_REFERENCE=DIR python tests/bench/families.py --muq PYTHON` prints a table for one window of 30 s, batch 1, all
hidden states. PYTHON is that of an environment with the package `muq`, with the same torch and transformers 4; without
it the official class is left out. DIR is that of `full_size.py`, which writes the weights: 1.3 GB below --folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# As `import mert` asks of OpenMP before torch is imported; here for both environments: threads that wait sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from full_size import write_published
from harness.sounds import music
from measuring import extra_mib, machine, named, spent, write

from mert.inference.fast_conformer import FastConformer
from mert.weights.checkpoints import load_model

OFFICIAL, PLAIN = "official class, float32", "plain torch, float32"
# What runs in the other environment: a forward pass for each line that it reads.
RUN_OFFICIAL = """
import json, sys, torch
weights, wave, states, bench, threads = sys.argv[1:]
sys.path.insert(0, bench)
from measuring import extra_mib, spent
from muq import MuQ
torch.set_num_threads(int(threads))
model, wave_BN = MuQ.from_pretrained(weights).eval(), torch.load(wave)
def forward():
    with torch.inference_mode():
        return model(wave_BN, output_hidden_states=True).hidden_states
for line in sys.stdin:
    if line == "first\\n":
        made = []
        answer = {"extra_mib": extra_mib(lambda: made.extend(forward()))}
        torch.save(made, states)
    else:
        answer = spent(forward)
    print("answer", json.dumps(answer), flush=True)
"""
Forward = Callable[[], list[Tensor]]


class Official:
    """The official class in a process of its own, which sleeps while it is not its turn."""

    def __init__(self, python: Path, weights: Path, wave_BN: Tensor, folder: Path) -> None:
        self._states = folder / "states.pt"
        torch.save(wave_BN, folder / "wave.pt")
        places = (weights, folder / "wave.pt", self._states, Path(__file__).parent, torch.get_num_threads())
        line = [str(python), "-c", RUN_OFFICIAL, *map(str, places)]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def first(self) -> tuple[float, list[Tensor]]:
        return self._ask("first")["extra_mib"], torch.load(self._states)

    def again(self) -> dict[str, float]:
        return self._ask("again")

    def _ask(self, line: str) -> dict[str, float]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        for said in self._process.stdout:
            if said.startswith("answer "):
                return dict(json.loads(said.removeprefix("answer ")))
        raise SystemExit("the official class failed: its reason stands above")

    def close(self) -> None:
        self._process.communicate()


class Ours:
    """A forward pass in this process."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def first(self) -> tuple[float, list[Tensor]]:
        made: list[Tensor] = []
        return extra_mib(lambda: made.extend(self._forward())), made

    def again(self) -> dict[str, float]:
        return spent(self._forward)


def worst(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference over all states, in units of max(1, rms of the state)."""
    assert len(got) == len(wanted)
    pairs = zip(got, wanted, strict=True)
    return max(float((a.float() - b).abs().max() / b.square().mean().sqrt().clamp(min=1)) for a, b in pairs)


def least_cosine(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Smallest mean cosine of a state."""
    pairs = zip(got, wanted, strict=True)
    return min(float(torch.cosine_similarity(a.float(), b, dim=2).mean()) for a, b in pairs)


def measured(methods: dict[str, Official | Ours], rounds: int) -> list[dict[str, Any]]:
    """A row for each method; its first call gives memory and states, the later ones time."""
    rows: list[dict[str, Any]] = []
    wanted: list[Tensor] = []
    for name, method in methods.items():
        extra, states = method.first()
        wanted = wanted or states
        row: dict[str, Any] = {"method": name, "extra_mib": extra}
        row |= {"worst": worst(states, wanted), "cosine": least_cosine(states, wanted)}
        rows.append(row | {"turns": []})
        print(json.dumps(row), flush=True)
    for _ in range(rounds):
        for row, method in zip(rows, methods.values(), strict=True):
            row["turns"].append(method.again())
            print(row["method"], json.dumps(row["turns"][-1]), flush=True)
    for row in rows:
        row |= {key: statistics.median(turn[key] for turn in row["turns"]) for key in ("seconds", "cpu_s")}
    return rows


def shown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table in Markdown; times are beside how many times as fast as the first method they are."""
    first = rows[0]
    lines = [
        "| | seconds | CPU seconds | peak memory beside the weights | largest difference | least mean cosine |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = (f"{row[key]:.2f} ({first[key] / row[key]:.2f})" for key in ("seconds", "cpu_s"))
        agreement = f"{row['worst']:.1e} | {row['cosine']:.6f}"
        lines.append(f"| {row['method']} | {' | '.join(times)} | {row['extra_mib']:.0f} MiB | {agreement} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--muq", type=Path, help="a python with the package muq")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=Path("bench_out/families.json"))
    asked = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "window_s": asked.seconds}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        weights = write_published("muq", folder / "muq").parent
        wave_BN = torch.from_numpy(music(asked.seconds))[None]
        model, _, _ = load_model(weights)
        methods: dict[str, Official | Ours] = {}
        if asked.muq:
            methods[OFFICIAL] = official = Official(asked.muq, weights, wave_BN, folder)
        methods[PLAIN] = Ours(partial(model, wave_BN))
        for dtype in (torch.float32, torch.bfloat16):
            fast = FastConformer(model, dtype)
            methods[f"fast path, {str(dtype).removeprefix('torch.')}"] = Ours(partial(fast, wave_BN))
        with torch.inference_mode():
            results["rows"] = measured(methods, asked.rounds)
        if asked.muq:
            official.close()
    print(f"{named(results['machine'])}, load when it began {results['machine']['load_before'][0]:.1f}\n")
    print(shown(results["rows"]))
    write(results, asked.out)


if __name__ == "__main__":
    main()
