"""The measurements that `make bench` and the GPU script make, on small models on a CPU: every method and section runs.

What the GPU script measured is kept when it is cut.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytestmark = pytest.mark.check
BENCH = Path(__file__).parent / "bench"


def command(out: Path, *words: str) -> list[str]:
    return [sys.executable, str(BENCH / "gpu.py"), "--tiny", "--device", "cpu", "--out", str(out), *words]


def read(out: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(out.read_text())
    return results


def test_every_section_measures_something_or_says_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "a" / "gpu.json"
    done = subprocess.run(command(out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = read(out)
    sections = results["sections"]
    assert list(sections)[:2] == ["matrix products", "embedding tiny"] and len(sections) == 8
    for name, section in sections.items():
        assert section["status"] == "done" or section["status"].startswith("skipped: "), (name, section)
        assert section["rows"] or section["status"] != "done"
        for row in section["rows"]:
            assert row.get("seconds", 1) > 0 and row.get("tflops", 1) > 0, row
    cosines = [row["worst_layer_cosine"] for row in sections["embedding tiny"]["rows"] if "worst_layer_cosine" in row]
    assert len(cosines) == 1 and 0.99 < cosines[0] < 1.0001
    eager, compiled = (sections[f"training step tiny{how}"]["rows"][0]["tflops"] for how in ("", ", compiled"))
    assert 0.01 < eager / compiled < 100
    text = out.with_suffix(".md").read_text()
    assert done.stdout.endswith(text) and all(f"| {name} |" in text for name in sections)
    assert sorted(path.name for path in out.parent.iterdir()) == ["gpu.json", "gpu.md"]


def test_a_small_budget_keeps_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = subprocess.run(command(out, "--budget-s", "0.5"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    statuses = [section["status"] for section in read(out)["sections"].values()]
    assert statuses[0] == "done" and statuses[-1] == "cut: the budget is used up" and len(statuses) == 8


def test_a_killed_run_leaves_a_file_of_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    with subprocess.Popen(command(out), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 100
        while not out.exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert read(out)["sections"]["matrix products"]["status"] == "done"


def test_embedding_is_timed_by_every_method(tmp_path: Path) -> None:
    """The published class folded and compiled, beside the same class as it is, which must not change by it."""
    if pytest.importorskip("transformers").__version__ >= "5":
        pytest.skip("the published class is that of transformers 4 of the full environment")
    out = tmp_path / "embedding.json"
    words = ("--models", "mert-nano", "--seconds", "1", "--batches", "1", "--forward-only", "--out", str(out))
    done = subprocess.run([sys.executable, str(BENCH / "embedding.py"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in read(out)["forward"]}
    assert {"class eager", "class sdpa", "class tuned", "float32", "int8", "onnx"} <= set(rows)
    assert all(row["seconds"] > 0 for row in rows.values())


def test_the_parts_of_a_training_step_are_timed_and_the_reference_has_the_same_loss() -> None:
    """At nano's size, as `training.py --model nano` begins; its whole grid takes minutes and 7 GB."""
    pytest.importorskip("nnAudio", reason="the reference computes its CQT by nnAudio")
    if pytest.importorskip("transformers").__version__ >= "5":
        pytest.skip("the reference is built on transformers 4 of the full environment")
    code = (
        "import json; from training import Reference, engine_of, same_loss, shares; e = engine_of('nano', 'float32'); "
        "r = Reference(e); print(json.dumps([same_loss(e, r), shares(e, 1)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCH, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (ours, theirs), parts = json.loads(done.stdout.splitlines()[-1])
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert {"CQT", "forward", "backward", "clipping", "AdamW", "mask, mixing, batch"} < set(parts)
    assert parts["the rest"] < 0.2 * sum(parts.values())
