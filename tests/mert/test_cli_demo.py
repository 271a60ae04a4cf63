"""The tour of `make demo`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner


def test_the_demo_names_its_model_and_shows_the_form(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import typer

    from mert.cli.demo import main
    from mert.embedding.features import Features
    from mert.weights.registry import info

    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "mert-nano: Apache-2.0, " in done.output
    described = done.output.partition("described: ")[2]
    tempo = re.search(r"tempo +(\d+) BPM", described)
    assert tempo and abs(int(tempo[1]) - 120) <= 4  # as the line above says it was made
    assert "instrumental" in described and re.search(r"key +(A minor|C major|not sure)", described)
    assert (tmp_path / "self_similarity.png").stat().st_size > 10_000
    features = Features.load(tmp_path / "features.npz")
    assert features.values.shape == (7, 1797, 256)
    frames = features.layer(info("mert-nano").recommended_layer or "")
    a1, b, a2 = (frames[start : start + 500].mean(axis=0) for start in (30, 650, 1250))
    assert np.linalg.norm(a1 - a2) < 0.5 * np.linalg.norm(a1 - b)  # form ABA
