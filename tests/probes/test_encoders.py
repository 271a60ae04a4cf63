"""An encoder is what it computes: whatever changes its numbers changes its identity, and nothing else does."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from harness.sounds import music, tiny_embedder

from mert.errors import CheckpointError, UsageError
from probes.encoders import Encoder, EncoderFacts, MertEncoder, load_encoder
from probes.encoders.identity import fingerprint

FACTS = EncoderFacts("energy", sample_rate=8_000, frame_rate=100.0, layer_names=("a",), dim=1)
SCALE = 2.0


def energy(wave_N: np.ndarray) -> np.ndarray:
    return (wave_N[: len(wave_N) // 80 * 80].reshape(1, -1, 80) ** 2).mean(-1, keepdims=True)


def scaled(factor: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda wave_N: np.asarray(factor) * energy(wave_N)


def loud(wave_N: np.ndarray, above: float = 5.0) -> np.ndarray:
    return energy(wave_N) if np.abs(wave_N).max() < above else 0 * energy(wave_N)


def quiet(wave_N: np.ndarray, above: float = 5.0) -> np.ndarray:
    return energy(wave_N) if np.abs(wave_N).max() < above else 1 + energy(wave_N)


def by_global(wave_N: np.ndarray) -> np.ndarray:
    return SCALE * energy(wave_N)


class Layer:
    """A callable with a weight."""

    def __init__(self, weight: Any) -> None:
        self.weight, self.only_when_loud = weight, 0.0

    def __call__(self, wave_N: np.ndarray) -> np.ndarray:
        return np.asarray(self.weight) * (energy(wave_N) if np.abs(wave_N).max() < 5 else self.only_when_loud)


class Module(torch.nn.Module):
    """A network with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    @torch.no_grad()
    def forward(self, wave_N: np.ndarray) -> np.ndarray:
        return self.weight.numpy() * energy(wave_N)


def identity(function: Callable[[np.ndarray], np.ndarray], sha256: str = "") -> str:
    facts = Encoder(dataclasses.replace(FACTS, sha256=sha256), function).identify()
    return facts.function


OTHERS: dict[str, tuple[Callable, Callable]] = {
    "closure": (scaled(2.0), scaled(3.0)),
    "array in a closure": (scaled(np.ones(1)), scaled(np.full(1, 1.5))),
    "constant": (lambda wave_N: 2 * energy(wave_N), lambda wave_N: 3 * energy(wave_N)),
    "operation": (lambda wave_N: 2 + energy(wave_N), lambda wave_N: 2 * energy(wave_N)),
    "default": (functools.partial(loud), functools.partial(loud, above=6.0)),
    "branch that the probe does not take": (loud, quiet),
    "attribute": (Layer(1.0), Layer(2.0)),
    "function within": (lambda wave_N: loud(wave_N), lambda wave_N: quiet(wave_N)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_function_has_another_identity(case: str) -> None:
    one, other = OTHERS[case]
    assert identity(one) != identity(other) and identity(one) == identity(one)


def test_what_changes_in_place_changes_the_identity() -> None:
    layer, module, table = Layer(1.0), Module(), {"weight": np.ones(1)}
    for function, change in (
        (layer, lambda: setattr(layer, "weight", 1.5)),
        (layer, lambda: setattr(layer, "only_when_loud", 1.0)),
        (module, lambda: module.weight.data.mul_(2)),
        (lambda wave_N: table["weight"] * energy(wave_N), lambda: table.update(weight=np.zeros(1))),
    ):
        encoder = Encoder(FACTS, function)
        before = encoder.identify()
        change()
        after = encoder.identify()
        assert before.sha256 != after.sha256 and after.sha256 == after.function == encoder.facts.sha256


def test_counters_and_caches_do_not_count() -> None:
    """A function that is called more often is the same function, and another one is another all the same."""

    def counting(factor: float) -> Callable[[np.ndarray], np.ndarray]:
        known: dict[bytes, np.ndarray] = {}

        def cached(wave_N: np.ndarray) -> np.ndarray:
            return known.setdefault(wave_N.tobytes(), factor * energy(wave_N))

        return cached

    encoder = Encoder(FACTS, counting(2.0))
    before = encoder.identify().sha256
    encoder.frames(music(1.0, 8_000))
    assert encoder.identify().sha256 == before == identity(counting(2.0)) != identity(counting(3.0))
    assert identity(functools.lru_cache(loud)) != identity(functools.lru_cache(quiet))


def test_a_global_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(by_global)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 2.5)
    assert identity(by_global) != before


def test_what_a_module_of_ones_own_holds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is reached by its name or through another module, and even if no fixed wave shows it."""
    mine, more = ModuleType("mine"), ModuleType("more")
    mine.more, more.mine = more, mine  # type: ignore[attr-defined]  # as packages hold each other
    mine.SCALE, more.OFFSET, more.UNUSED = 2.0, 0.5, 1  # type: ignore[attr-defined]
    monkeypatch.setitem(globals(), "mine", mine)
    before = fingerprint(by_a_module)
    for module, name, counts in ((mine, "SCALE", True), (more, "OFFSET", True), (more, "UNUSED", False)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 7.0)
            assert (fingerprint(by_a_module) != before) == counts
        assert fingerprint(by_a_module) == before


def test_an_installed_module_counts_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts may be loaded when they are first used, which changes nothing of what a function computes."""
    monkeypatch.setitem(globals(), "mine", pytest)
    before = fingerprint(by_a_module)
    monkeypatch.setattr(pytest, "SCALE", 2.0, raising=False)
    assert fingerprint(by_a_module) == before


def by_a_module(wave_N: np.ndarray) -> Any:
    return mine.SCALE * wave_N + mine.more.OFFSET  # type: ignore[name-defined]  # noqa: F821


def test_a_file_that_the_function_reads_counts(tmp_path: Any) -> None:
    weights = tmp_path / "weights.npy"

    def of_file(wave_N: np.ndarray) -> np.ndarray:
        return np.load(weights) * energy(wave_N)

    np.save(weights, np.ones(1))
    before = identity(of_file)
    np.save(weights, np.full(1, 1.001))
    assert identity(of_file) != before


def test_a_stated_identity_is_kept_beside_what_is_computed() -> None:
    stated = "ab" * 32
    first, second = (Encoder(dataclasses.replace(FACTS, sha256=stated), scaled(k)).identify() for k in (2.0, 3.0))
    assert first.sha256 == second.sha256 == stated and first.function != second.function
    assert first.as_dict()["function"] == first.function and "function" not in load_facts()


def load_facts() -> dict[str, Any]:
    return MertEncoder(tiny_embedder()).identify().as_dict()


@pytest.mark.parametrize("sha256", ["0" * 64, "1" * 63, "g" * 64, "sha", "A" * 64])
def test_made_up_identities_are_refused(sha256: str) -> None:
    with pytest.raises(UsageError, match="not the SHA-256 of any weights; leave it out"):
        dataclasses.replace(FACTS, sha256=sha256)


def test_facts_must_be_stated() -> None:
    with pytest.raises(UsageError, match="frame_rate is not stated; give frame_rate="):
        EncoderFacts("energy", sample_rate=8_000)


def test_the_identity_is_that_of_another_process() -> None:
    """Neither addresses nor the order of sets are in it."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from probes_test import FACTS, Layer, Module, identity, scaled\n"
        "print(identity(scaled({'b', 'a', 'c'} and 2.0)), identity(Layer(2.0)), identity(Module()))"
    )
    code = code.replace("probes_test", __name__.rpartition(".")[2])
    folders = [str(path) for path in sys.path if path]
    said = [
        subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True, env={
            "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"
        }).stdout for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1] and len(said[0].split()) == 3


def test_cycles_end() -> None:
    held: list[Any] = [1]
    held.append(held)
    assert fingerprint(held) == fingerprint(held) != fingerprint([1, 2])


def test_weights_changed_behind_torchs_back_are_noticed() -> None:
    embedder = tiny_embedder()
    encoder, wave_N = MertEncoder(embedder), music(1.0)
    before, values = encoder.identify().sha256, next(encoder.pooled([wave_N]))
    assert encoder.identify().sha256 == before == embedder.sha256
    for parameter in embedder.model.parameters():
        parameter.data.mul_(0.5)
    after = encoder.identify().sha256
    assert after != before and after == encoder.facts.sha256 == embedder.sha256
    assert MertEncoder(embedder).identify().sha256 == after
    assert np.abs(next(encoder.pooled([wave_N])) - values).max() > 1e-3  # what runs is made of the weights of now


def test_weights_changed_after_the_encoder_was_made_are_noticed() -> None:
    embedder = tiny_embedder()
    encoder = MertEncoder(embedder)
    before = encoder.identify().sha256
    with torch.no_grad():
        next(embedder.model.parameters()).add_(0.1)
    assert encoder.identify().sha256 != before


@pytest.mark.parametrize(("name", "said"), [("mfc", "try mfcc"), ("logmel", "try log-mel"), ("random-nan", "nano")])
def test_a_mistyped_name_is_answered_with_a_near_one(name: str, said: str) -> None:
    with pytest.raises((CheckpointError, UsageError, ValueError), match=said):
        load_encoder(name)


TOY = """
import numpy as np
from probes import Encoder, EncoderFacts

def loudness():
    facts = EncoderFacts("loudness", sample_rate=16_000, frame_rate=50, layer_names=("rms",), dim=1, pool="meanstd")
    return Encoder(facts, lambda w: np.sqrt((w[: len(w) // 320 * 320].reshape(1, -1, 320) ** 2).mean(2))[..., None])
"""


@pytest.mark.check
def test_an_installed_package_adds_an_encoder_to_the_benchmark(tmp_path: Path) -> None:
    """By its metadata alone, as pip writes it."""
    about = tmp_path / "site" / "toy-1.0.dist-info"
    about.mkdir(parents=True)
    (tmp_path / "site" / "toy.py").write_text(TOY)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mert.encoders]\nloudness = toy:loudness\n")
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    options = ["-t", "nsynth_pitch", "--suite", "tiny", "--lrs", "1e-3", "--seeds", "0", "-o", str(tmp_path / "out")]
    command = [sys.executable, "-m", "mert", "bench", "run", "-m", "loudness", *options]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "nsynth_pitch.json").read_text())
    assert result["model"]["name"] == "loudness"


def test_an_encoder_may_give_tensors_of_torch() -> None:
    """With gradients, and in a type that numpy does not have."""
    facts = EncoderFacts("peaks", sample_rate=8_000, frame_rate=50, layer_names=("peaks",), dim=4)

    def peaks(wave_N: np.ndarray) -> torch.Tensor:
        wave = torch.tensor(wave_N, dtype=torch.float32, requires_grad=True)
        return wave.reshape(1, -1, 4, 40).abs().amax(-1).bfloat16()

    tensors, wave_N = Encoder(facts, peaks), np.linspace(-1, 1, 1600, dtype=np.float32)  # type: ignore[arg-type]
    arrays = Encoder(facts, lambda wave_N: peaks(wave_N).detach().float().numpy())
    np.testing.assert_array_equal(tensors.frames(wave_N), arrays.frames(wave_N))
    np.testing.assert_array_equal(next(iter(tensors.pooled([wave_N]))), next(iter(arrays.pooled([wave_N]))))
