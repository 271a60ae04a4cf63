"""Fixtures of all tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))  # for `harness`

from harness.sounds import tiny_embedder

from mert.embedding.embedder import Embedder
from mert.inference.runner import Runner

collect_ignore = ["bench", "harness"]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job, and its children, would ignore it


@pytest.fixture(autouse=True, scope="session")
def auto_is_float32() -> Iterator[None]:
    """Tests hold on any machine: what "auto" is where bfloat16 is native, tests that ask for it say themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "has_bfloat16", staticmethod(lambda device: False))
        yield


@pytest.fixture(scope="session")
def tiny() -> Embedder:
    return tiny_embedder()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write("a.wav", wave, rate) writes below the test's folder and returns the path."""

    def write_file(name: str, wave: np.ndarray, rate_hz: int = 24_000, **kwargs: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, rate_hz, **kwargs)
        return path

    return write_file
