"""`mert plot ...`: what is drawn is what the files say, and what cannot be drawn is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from harness.commands import Run, run_mert
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from mert import Features
from mert.errors import UsageError
from mert.files import read_rows, write_json
from mert.plots import COLOURS, new_axes, plot_codes, plot_curves, plot_ssm, save_figure
from probes.results import plot_results, read_results


def plot(*words: object) -> Run:
    """`mert plot WORDS` in this process."""
    return run_mert("plot", *words)


def ink(path: Path) -> float:
    """Share of pixels that are not white."""
    return float((imread(path)[..., :3] < 0.99).any(axis=-1).mean())


def song(folder: Path, name: str = "song", form: str = "ABA") -> Path:
    """Features whose sections are two directions: 1 s each, 75 frames a second."""
    directions = {"A": [1.0, 0.0, 0.0], "B": [0.0, 1.0, 0.0]}
    frames_TD = np.repeat([directions[section] for section in form], 75, axis=0).astype(np.float32)
    times_T = (np.arange(len(frames_TD)) + 0.5) / 75
    features = Features(frames_TD[None], times_T, ("layer07",), {"source": f"{name} 雨.wav", "model": "hand"})
    features.save(folder / f"{name}.npz")
    return folder / f"{name}.npz"


def result(folder: Path, valid: dict[str, list[float | None]], task: str = "gtzan_genre", **facts: object) -> Path:
    """A result as `mert bench run` writes it, with the parts that are drawn."""
    grid = [
        {"layer": layer, "lr": 1e-3, "seed": seed, "valid": score, "epoch": 5}
        for layer, scores in valid.items()
        for seed, score in enumerate(scores)
    ]
    about = {"name": task, "title": task.upper(), "data": facts.pop("data", "real")}
    seeds = [{"seed": 0, "valid": {facts.pop("metric", "accuracy"): 50.0}, "test": {}}]
    layer = max(valid, key=lambda layer: np.mean([score or 0 for score in valid[layer]]))
    folder.mkdir(exist_ok=True)
    values = {"model": {"name": "hand"}, "task": about, "layer": layer, "grid": grid, "seeds": seeds} | facts
    write_json(folder / f"{task}.json", values)
    return folder / f"{task}.json"


def run_of(folder: Path, n_steps: int = 40, fall: float = 1.0) -> Path:
    """A training run's metrics, validated every tenth step."""
    rows = []
    for step in range(1, n_steps + 1):
        row = {"step": step, "loss": 60 - fall * step**0.5, "grad_norm": 30 / step + 1, "lr": 1e-5 * step}
        if step % 10 == 0:
            row |= {"valid/loss": 61 - fall * step**0.5, "valid/mel_rvq/accuracy_0": step / 100,
                    "valid/mel_rvq/most_frequent_0": 0.02, "valid/mel_rvq/accuracy_1": step / 200,
                    "valid/mel_rvq/most_frequent_1": 0.01, "valid/cqt/error": 1 - step / 100}  # fmt: skip
        rows.append(json.dumps(row))
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join(rows) + '\n{"step": 41, "lo')
    return folder


def store(folder: Path, codes_TK: list[list[int]], n_classes: list[int]) -> Path:
    """A label store of one recording with these codes."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    folder.mkdir()
    about = {"format": "mert-labels", "teacher": "hand", "fingerprint": "f", "licence": "Apache-2.0", "n_shards": 1,
             "sample_rate": 24_000, "rate_hz": 75.0, "n_classes": n_classes, "corpus": "c"}  # fmt: skip
    write_json(folder / "store.json", about)
    flat = [code for codes in codes_TK for code in codes]
    rows = {"name": ["a.wav"], "n_samples": [320 * (len(codes_TK) - 1) + 400], "codes": [flat]}
    parquet.write_table(pyarrow.table(rows), folder / "shard-00000.parquet")
    return folder


# ------------------------------------------------------------------------------------------------------ what is drawn


def test_self_similarity_shows_the_form(tmp_path: Path) -> None:
    axes = plot_ssm(Features.load(song(tmp_path)))
    image = axes.images[0].get_array()
    assert image is not None and image.shape == (225, 225)
    np.testing.assert_allclose([image[10, 10], image[10, 200]], 1.0, atol=1e-6)  # A is like A
    assert image[10, 100] == pytest.approx(-1.0, abs=1e-6)  # and not like B
    assert axes.images[0].get_extent() == pytest.approx([0, 3, 0, 3]) and axes.get_xlabel() == "time, s"
    assert "song 雨.wav" in axes.get_title() and "hand, layer07" in axes.get_title()


def test_the_layer_curve_is_the_mean_over_seeds_and_rings_the_chosen_layer(tmp_path: Path) -> None:
    valid: dict[str, list[float | None]] = {
        "layer10": [50.0, 60.0], "embed": [10.0, 30.0], "all": [40.0, 42.0], "layer02": [None, 70.0],
    }  # fmt: skip
    (axes,) = plot_results(read_results(result(tmp_path, valid, data="synthetic", layer="layer02")))
    line, ring = axes.lines[0], axes.lines[-1]
    assert line.get_ydata() == pytest.approx([20.0, 70.0, 55.0])  # embed, layer02, layer10; not "all"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["e", "2", "10", "all"]
    assert ring.get_ydata() == pytest.approx([70.0]) and ring.get_xdata() == pytest.approx([1])
    assert axes.get_ylabel() == "accuracy, points" and axes.get_title(loc="left") == "GTZAN_GENRE, synthetic data"


def test_a_folder_gives_a_panel_for_each_task_with_a_choice_of_layers(tmp_path: Path) -> None:
    result(tmp_path, {"embed": [1.0], "layer01": [2.0]})
    result(tmp_path, {"embed": [1.0], "layer01": [2.0]}, "musdb18", metric="loss")
    result(tmp_path, {"layer01": [2.0]}, "mtt")
    write_json(tmp_path / "other.json", {"a": 1})
    panels = plot_results(read_results(tmp_path))
    assert [(p.get_title(loc="left"), p.get_ylabel()) for p in panels] == [
        ("GTZAN_GENRE", "accuracy, points"), ("MUSDB18", "-loss"),
    ]  # fmt: skip


def test_training_curves_hold_the_recorded_values(tmp_path: Path) -> None:
    rows = read_rows(run_of(tmp_path / "run") / "metrics.jsonl")
    assert len(rows) == 40  # the line that was cut off is not one
    loss, accuracy, error, gradient = plot_curves(rows)
    assert loss.lines[0].get_ydata() == pytest.approx([row["loss"] for row in rows])
    assert list(loss.lines[1].get_xdata()) == [10, 20, 30, 40]
    first, second, chance = accuracy.lines
    assert first.get_ydata() == pytest.approx([10, 20, 30, 40]) and second.get_ydata() == pytest.approx([5, 10, 15, 20])
    assert chance.get_ydata() == pytest.approx([2] * 4)
    assert error.lines[0].get_ydata() == pytest.approx([0.9, 0.8, 0.7, 0.6]) and gradient.get_yscale() == "log"
    without = plot_curves([{"step": 1, "loss": 2.0}])
    assert [panel.texts[0].get_text() for panel in without[1:]] == ["not recorded"] * 3 and not without[0].texts


def test_codes_are_counted_by_codebook(tmp_path: Path) -> None:
    from teachers.labels import LabelStore

    held = LabelStore(store(tmp_path / "store", [[0, 1], [1, 1], [2, 1], [3, 1]], [8, 4]))
    counts_KC = held.counts()
    assert counts_KC.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [0, 4, 0, 0, 0, 0, 0, 0]]
    perplexity, by_rank = plot_codes(counts_KC, held.n_classes, "hand")
    assert [bar.get_height() for bar in perplexity.patches] == pytest.approx([4.0, 1.0])
    used = [line.get_ydata()[0] for line in perplexity.lines[:4]]
    assert used == [4, 8, 1, 4]  # codes that occur, codes there are: of each codebook
    assert by_rank.lines[0].get_ydata() == pytest.approx([25.0] * 4)
    assert by_rank.lines[1].get_ydata() == pytest.approx([12.5] * 2)
    assert by_rank.lines[2].get_ydata() == pytest.approx([100.0])


# As seen with full protanopia and deuteranopia, in linear RGB (Machado, Oliveira and Fernandes 2009).
SEEN = {
    "normal": np.eye(3).ravel(),
    "protanopia": (0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998),
    "deuteranopia": (0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881),
}
TO_XYZ = (0.4124564, 0.3575761, 0.1804375, 0.2126729, 0.7151522, 0.072175, 0.0193339, 0.119192, 0.9503041)


@pytest.mark.parametrize("seen", SEEN)
def test_colours_of_models_are_told_apart_by_colour_blind_readers(seen: str) -> None:
    """At least 25 apart in CIELAB; before, two pairs were 1 and 2 apart."""
    rgb_K3 = np.array([to_rgb(colour) for colour in COLOURS])
    linear_K3 = np.where(rgb_K3 <= 0.04045, rgb_K3 / 12.92, ((rgb_K3 + 0.055) / 1.055) ** 2.4)
    seen_K3 = np.clip(linear_K3 @ np.reshape(SEEN[seen], (3, 3)).T, 0, 1)
    xyz_K3 = seen_K3 @ np.reshape(TO_XYZ, (3, 3)).T / (0.95047, 1, 1.08883)
    x_K, y_K, z_K = np.where(xyz_K3 > 0.008856, np.cbrt(xyz_K3), 7.787 * xyz_K3 + 16 / 116).T
    lab_K3 = np.stack([116 * y_K - 16, 500 * (x_K - y_K), 200 * (y_K - z_K)], axis=1)
    assert min(np.linalg.norm(a - b) for a, b in combinations(lab_K3, 2)) >= 25


def test_dollar_signs_in_names_are_dollar_signs(tmp_path: Path) -> None:
    """As formulas, the first could not be read, and the dollars of the second vanished."""
    for name in (r"$\frac$", "Ke$ha A$AP"):
        axes = new_axes()
        axes.set_title(name)
        axes.plot([1, 2], label=name)
        axes.set_xticks([0], [name])
        axes.legend()
        save_figure(axes.figure, tmp_path / "a.svg")
        assert (tmp_path / "a.svg").read_text().count(f"<!-- {name} -->") == 3


# ------------------------------------------------------------------------------------------------------- the commands


@pytest.mark.parametrize(("kind", "suffix"), [
    *((kind, ".png") for kind in ("ssm", "layers", "curves", "codes")), ("ssm", ".svg"), ("layers", ".pdf")
])  # fmt: skip
def test_pictures_are_written_and_differ_with_the_data(tmp_path: Path, kind: str, suffix: str) -> None:
    pairs: dict[str, Callable[[], tuple[Path, Path]]] = {
        "ssm": lambda: (song(tmp_path), song(tmp_path, "other", "ABBA")),
        "layers": lambda: (
            result(tmp_path, {"embed": [1.0, 2.0], "layer01": [2.0, 4.0]}),
            result(tmp_path / "other", {"embed": [1.0, 2.0], "layer01": [2.0, 9.0]}),
        ),
        "curves": lambda: (run_of(tmp_path / "run"), run_of(tmp_path / "other", fall=2.0)),
        "codes": lambda: (store(tmp_path / "a", [[0], [1], [1]], [4]), store(tmp_path / "b", [[0], [1], [2]], [4])),
    }
    one, other = pairs[kind]()
    pictures = [tmp_path / f"{name}{suffix}" for name in ("one", "again", "other")]
    for source, picture in zip((one, one, other), pictures, strict=True):
        done = plot(kind, source, "-o", picture)
        assert done == (0, f"{picture}\n", ""), done
    drawn = [picture.read_bytes() for picture in pictures]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    assert {path.name for path in tmp_path.glob(".*")} == set()  # nothing half-written
    if suffix == ".png":
        assert imread(pictures[0]).shape[1] >= 800 and ink(pictures[0]) > 0.01


def test_several_stores_stand_below_each_other(tmp_path: Path) -> None:
    stores = [store(tmp_path / name, [[0], [1]], [4]) for name in "ab"]
    assert plot("codes", *stores, "-o", tmp_path / "two.png").code == 0
    assert plot("codes", stores[0], "-o", tmp_path / "one.png").code == 0
    assert imread(tmp_path / "two.png").shape[0] == 2 * imread(tmp_path / "one.png").shape[0]


def test_what_cannot_be_drawn_is_one_line_with_file_reason_and_remedy(tmp_path: Path) -> None:
    features = song(tmp_path)
    Features.load(features).pool("mean").save(tmp_path / "pooled.npz")
    one_layer = result(tmp_path / "results", {"layer01": [1.0]})
    (tmp_path / "broken.json").write_text("{")
    write_json(tmp_path / "other.json", {"a": 1})
    write_json(tmp_path / "odd.json", {"grid": [1, 2]})
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "teacher.json").write_text("{}")
    (tmp_path / "run").mkdir()
    damaged = store(tmp_path / "store", [[0], [9]], [4])
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("ssm", tmp_path / "pooled.npz"), 2, "without a time axis"),
        (("ssm", tmp_path / "missing.npz"), 1, "missing.npz"),
        (("ssm", features, "--layer", "layer99"), 2, "holds no layer layer99; ask for layer07"),
        (("layers", one_layer), 2, "one layer only; run the benchmark over several layers"),
        (("layers", tmp_path / "run"), 2, "holds no result; name the JSON, or the folder, that `mert bench run` wrote"),
        (("layers", tmp_path / "broken.json"), 1, "is not JSON"),
        (("layers", tmp_path / "other.json"), 1, "is no result"),
        (("layers", tmp_path / "odd.json"), 1, "is no result"),
        (("layers", tmp_path / "missing.json"), 1, "missing.json: cannot be read"),
        (("curves", tmp_path / "run"), 2, "metrics.jsonl: holds no steps of a training run; name the folder"),
        (("codes", tmp_path / "teacher"), 2, "is a teacher, which holds no codes; make a store with it, mert tokenize"),
        (("codes", tmp_path / "run"), 1, "is no label store"),
        (("codes", damaged), 1, "code 9 of codebook 0 is not below 4"),
    ]
    for words, code, reason in cases:
        done = plot(*words, "-o", tmp_path / "x.png")
        assert done.code == code and reason in done.err and len(done.err.splitlines()) == 1, (words, done)
        assert str(words[1]) in done.err or words[1] == tmp_path / "pooled.npz"
    for out in ("x.gif", "x"):
        done = plot("ssm", features, "-o", tmp_path / out)
        assert done.code == 2 and "give .png, .svg or .pdf" in done.err
    assert not list(tmp_path.glob("x*"))


def test_a_picture_is_whole_or_not_there(tmp_path: Path) -> None:
    figure: Any = new_axes().figure
    (tmp_path / "old.png").write_bytes(b"old")
    figure.savefig = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("drawing failed"))
    with pytest.raises(RuntimeError, match="drawing failed"):
        save_figure(figure, tmp_path / "old.png")
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"
    with pytest.raises(UsageError, match=r"give \.png"):
        save_figure(figure, tmp_path / "old.txt")


def test_probes_throughput_and_waiting_are_drawn_where_they_were_recorded() -> None:
    rows = [
        {"step": step, "loss": 2.0, "clips_per_s": 10.0 * step, "wait_s": 0.1, "seconds": 0.4, "probe/gtzan": step / 10}
        for step in (1, 2, 3)
    ]
    *_, probes, throughput = plot_curves(rows)
    assert [list(line.get_ydata()) for line in probes.lines] == [[0.1, 0.2, 0.3]]
    assert list(throughput.lines[0].get_ydata()) == [10, 20, 30]
    (waiting,) = [axes for axes in throughput.figure.axes if axes.get_ylabel() == "time that waits, %"]
    assert list(waiting.lines[0].get_ydata()) == pytest.approx([25, 25, 25])
