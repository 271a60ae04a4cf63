"""The commands that give the numbers of a model card again, read off the results themselves."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from mir_benchmarks.registry import TASKS
from mir_benchmarks.run_cli import SUITE_SWITCHES, TINY_EPOCHS, Suite
from mir_benchmarks.runs import Run
from probes.result import Result


def training_commands(run: Path, model: Path) -> Iterator[str]:
    """From the recipe that lies beside the card to the model."""
    yield shlex.join(["mert", "pretrain", "recipe.yaml", f"out={run.name}"])
    yield shlex.join(["mert", "export", run.name, model.name, *["--half"] * is_half(model / "model.safetensors")])


def is_half(weights: Path) -> bool:
    """Whether a model's weights are stored in 16 bits."""
    with safe_open(weights, framework="np") as file:
        return any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118


def run_commands(run: Run, name: str) -> Iterator[str]:
    """`mert bench run` for all results of a model, a line for each way in which they were made."""
    tasks: dict[tuple[str, ...], list[str]] = {}
    for task, result in run.results.items():
        tasks.setdefault(tuple(_options(result)), []).append(task)
    for options, names in tasks.items():
        words = ["mert", "bench", "run", "-m", name, "-t", ",".join(names), *options, "-o", f"results/{name}"]
        yield shlex.join(words)


def _options(result: Result) -> Iterator[str]:
    """What differs from the defaults of `mert bench run`."""
    spec, size = TASKS[result.task["name"]], result.task.get("size")
    suite = Suite(size) if size in set(Suite) else None
    yield from ("--suite", suite.value) if suite else ("--data-home", "DATA")
    layers = list(dict.fromkeys(str(row["layer"]) for row in result.grid))
    if not set(result.model.get("layer_names", layers)) <= set(layers):
        yield from ("--layers", ",".join(layers))
    yield from ("--lrs", ",".join(f"{rate:g}" for rate in sorted({row["lr"] for row in result.grid})))
    yield from ("--seeds", ",".join(str(seed) for seed in sorted({row["seed"] for row in result.grid})))
    if result.head.get("kind") == "linear":
        yield from ("--head", "linear")
    epochs = spec.max_epochs if spec.kind == "separation" else result.head.get("max_epochs", spec.max_epochs)
    if epochs < min(spec.max_epochs, TINY_EPOCHS if suite is Suite.tiny else spec.max_epochs):
        yield from ("--max-epochs", str(epochs))
    if limit := re.match(r"(\d+) items", result.limit or ""):
        yield from ("--limit", limit[1])
    if result.model.get("context") == "training":
        yield from ("--context", "training")
    if result.protocol.get("features") == "raw":
        yield "--raw"
    usual = spec.protocol() | (SUITE_SWITCHES[suite] if suite else {})
    for switch, value in result.protocol.items():
        if switch in spec.switches and value != usual[switch]:
            yield from ("--set", f"{switch}={value}")


def segments_command(kind: str, measured: Mapping[str, Any], names: Sequence[str]) -> str:
    """`mert bench robustness` or `triplets`; its JSON says which recordings they were."""
    words = ["mert", "bench", kind, *(word for name in names for word in ("-m", name))]
    if measured["segment_s"] != 3:
        words += ["--segment-s", f"{measured['segment_s']:g}"]
    if all(one["model"].get("context") == "window" for one in measured["models"]):
        words += ["--context", "window"]
    return shlex.join([*words, "AUDIO", "-o", f"{kind}.json"])
