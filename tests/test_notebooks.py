"""The notebooks: clean as committed, and each runs to its end on synthesised audio, beside a hub on localhost."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.hub_server import Hub

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
PICTURES = {
    "01_embed_a_song": 2, "02_choose_a_layer": 1, "03_probe_your_own_labels": 2, "04_pretrain_a_tiny_mert": 2,
    "05_publish_and_load": 0,
}  # fmt: skip
LONGEST_CELL = 24
each_notebook = pytest.mark.parametrize("name", PICTURES)


def read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def streams(notebook: Any, stream: str) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.text for output in outputs if output.output_type == "stream" and output.name == stream]


def test_all_notebooks_are_known_here() -> None:
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == PICTURES.keys()


@each_notebook
def test_nothing_stale_is_committed(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}  # no version of a machine
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert ast.parse(cell.source).body, "an empty cell"


@each_notebook
def test_readers_are_told_what_comes(name: str) -> None:
    cells = read(name).cells
    title, _, paragraph = cells[0].source.partition("\n\n")
    assert cells[0].cell_type == "markdown" and re.fullmatch(r"# [A-Z][\w ]+", title)
    assert paragraph.startswith("For ") and re.search(r"\b(seconds|minutes?)\b", paragraph) and "\n" not in paragraph
    lengths = [len(cell.source.splitlines()) for cell in cells[2:] if cell.cell_type == "code"]  # but for the imports
    assert max(lengths) <= LONGEST_CELL


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff_has_nothing_to_say(command: tuple[str, ...]) -> None:
    pytest.importorskip("ruff")
    words = [sys.executable, "-m", "ruff", *command, "--no-cache", "notebooks"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.check
@each_notebook
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    work = tmp_path / "work"
    work.mkdir()
    notebook = read(name)
    with Hub() as server:
        variables = os.environ | {
            "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub"), "HF_TOKEN": "hf_localhost",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "IPYTHONDIR": str(tmp_path / "ipython"),
        }  # fmt: skip
        client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {
            "path": str(work)}})  # fmt: skip
        client.execute(env=variables)
        if name == "05_publish_and_load":
            has_published(server, notebook)
        else:
            assert server.requests == []  # "nothing is downloaded"
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == PICTURES[name]
    complaints = [text for text in streams(notebook, "stderr") if "IProgress not found" not in text]  # tqdm's own
    assert complaints == []


def has_published(server: Hub, notebook: Any) -> None:
    """The model went to the hub, came back from there by its commit, and both it and the export agree with ours."""
    commit, said = server.heads["you/my-mert"], "".join(streams(notebook, "stdout"))
    files = {"README.md", "config.json", "golden.safetensors", "model.safetensors"}
    assert files <= server.repos["you/my-mert"][commit].keys()
    assert ("GET", f"/you/my-mert/resolve/{commit}/model.safetensors", None) in server.requests
    assert f"loaded:     you/my-mert {commit}" in said and "difference: 0.0\n" in said
    assert "refused: damaged" in said
    if "transformers is not installed" not in said:
        found = re.findall(r"^\w+: largest difference (\S+), rms (\S+)$", said, re.MULTILINE)
        assert len(found) > 1
        assert all(float(difference) <= 1e-5 * max(1.0, float(rms)) for difference, rms in found)
