"""The command `mert` as users run it: exit codes, what it prints, and what lies on the disk afterwards."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from harness.commands import Run, Started, run_mert
from harness.encoders import damaged, encoded
from harness.sounds import all_close, music, tiny_embedder

import mert
from mert import Features
from mert.cli import embed as embed_cli
from mert.collection.plan import Job

COMMANDS = ("embed", "similar", "models", "info", "verify", "convert", "export", "push", "plot", "bench")
# A window alone has the same bits in any run; of windows that share a batch, some CPUs round the last ones otherwise.
EXACT = ("-d", "cpu", "--dtype", "float32", "--batch-size", 1)


Embed = Callable[..., Started]


class House(NamedTuple):
    """A model, recordings, and what one undisturbed run made of them."""

    model: str
    corpus: Path
    whole: Path
    run: Run


def files(folder: Path) -> dict[str, bytes]:
    """All that lies below a folder, temporary files and empty folders included, but for the reports."""
    found = {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
    return {name: data for name, data in found.items() if not name.startswith("report")}


def count(folder: Path) -> int:
    """Outputs that are there; those being written have another name."""
    return sum(name.endswith(".npz") and name != "final.npz" for _, _, names in os.walk(folder) for name in names)


def report(folder: Path, name: str = "report.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """24 recordings of 1 to 3 s in three folders, with odd names among them, and a text file."""
    home = tmp_path_factory.mktemp("house")
    model = mert.save_pretrained(tiny_embedder(), home / "tiny")
    names = ["雨の歌.wav", "two\nlines.wav", "-o.wav", "a  [bold]:smile:.flac", os.fsdecode(b"caf\xe9.wav"), "x.WAV"]
    names += [f"disc {i % 2}/{i:02}.wav" for i in range(18)]
    for i, name in enumerate(names):
        path = home / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            soundfile.write(file, music(1 + i % 3, seed=i), 24_000, format=path.suffix[1:].upper())
    (home / "in" / "notes.txt").write_text("not audio")
    started = Started(home, ("embed", home / "in", "-o", home / "out", "-m", model, *EXACT), fork=False)
    return House(str(model), home / "in", home / "out", started.end())


@pytest.fixture
def embed(house: House, tmp_path: Path) -> Embed:
    """embed(*options) starts `mert embed` of the corpus (or `inputs`) into the test's folder out/."""

    def begin(
        *options: object, inputs: tuple[object, ...] | None = None, fork: bool = True, limit: bool = False
    ) -> Started:
        given = (house.corpus,) if inputs is None else inputs
        words = ("embed", "-m", house.model, *EXACT, "-o", tmp_path / "out", *options, "--", *given)
        return Started(tmp_path, words, fork, limit)

    return begin


def test_all_well_is_0_and_the_input_tree_is_mirrored(house: House) -> None:
    assert house.run.code == 0, house.run
    made = {name for name, data in files(house.whole).items() if data}
    inputs = {name for name, data in files(house.corpus).items() if data and name != "notes.txt"}
    assert made == {f"{name}.npz" for name in inputs}


def test_features_of_another_model_are_replaced_on_request_alone(house: House, tmp_path: Path) -> None:
    other, out = mert.save_pretrained(tiny_embedder(seed=1), tmp_path / "other"), tmp_path / "out"
    recording = house.corpus / "disc 0" / "00.wav"

    def embed(model: object, *options: object) -> Run:  # the first recording has no output yet
        return run_mert("embed", "-m", model, *EXACT, "-o", out, *options, "--", house.corpus / "x.WAV", recording)

    assert run_mert("embed", "-m", house.model, *EXACT, "-o", out, recording).code == 0
    before = (out / "00.wav.npz").read_bytes()
    for resumed in [(), ("--skip-existing",)]:
        refused = embed(other, *resumed)
        assert refused.code == 2 and "00.wav.npz: holds features of another model (tiny)" in refused.err, refused
        assert "give another -o, or --overwrite to replace them" in refused.err
    assert files(out) == {"00.wav.npz": before}
    assert embed(other, "--overwrite").code == 0
    assert Features.load(out / "00.wav.npz").meta["model"] == "other"


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (("--layers", "all"), "layers"), (("--pool", "mean"), "pool"), (("--save-dtype", "float32"), "save_dtype"),
        (("--hop", "0.5", "--window", "2"), "window_frames, hop_frames"),
    ],
)  # fmt: skip
def test_features_made_in_another_way_are_replaced_on_request_alone(
    options: tuple[str, ...], facts: str, house: House, tmp_path: Path
) -> None:
    command = ("embed", "-m", house.model, *EXACT, "-o", tmp_path / "out", house.corpus / "x.WAV")
    assert run_mert(*command).code == 0
    before = files(tmp_path / "out")
    for resumed in [(), ("--skip-existing",)]:
        refused = run_mert(*command, *options, *resumed)
        assert refused.code == 2 and f"x.WAV.npz: holds features that differ in {facts}; give" in refused.err, refused
    assert files(tmp_path / "out") == before
    assert run_mert(*command, *options, "--overwrite").code == 0 and files(tmp_path / "out") != before


def test_a_run_over_a_part_of_a_folder_keeps_what_the_report_says_of_the_rest(house: House, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("x.WAV", "-o.wav"):
        shutil.copyfile(house.corpus / name, folder / name)
    (folder / "broken.wav").write_bytes(b"RIFF")
    command = ("embed", "-m", house.model, *EXACT, "-o", out, "--")
    assert run_mert(*command, folder).code == 3
    whole = {row["source"]: row["status"] for row in report(out)}
    assert len(whole) == 3
    assert run_mert(*command, folder / "x.WAV").code == 0
    assert {row["source"]: row["status"] for row in report(out)} == whole and len(report(out)) == 3
    (out / "-o.wav.npz").unlink()
    (folder / "broken.wav").unlink()
    assert run_mert(*command, folder / "x.WAV").code == 0
    assert [row["source"] for row in report(out)] == [str(folder / "x.WAV")]


def test_the_sum_is_printed_first_and_agrees_with_what_is_written(house: House) -> None:
    first, second, *_, last = house.run.out.splitlines()
    assert first == "tiny (apache-2.0) on cpu, float32; layer03, frames, stored as float16"
    assert second == "24 files, 48 s of audio: 0.2 MiB expected; 1 other file in the folders passed over"
    values = sum(Features.load(house.whole / name).values.nbytes for name in files(house.whole) if ".npz" in name)
    assert values / 2**20 == pytest.approx(48 * 32 * 75 * 2 / 2**20, rel=0.02)
    assert last.startswith("24 embedded, 0 kept, 0 failed: 48.0 s of audio, ") and last.endswith("report.jsonl")
    assert "24/24 files" in house.run.out and "x real time" in house.run.out


def test_the_report_has_a_line_for_each_file(house: House) -> None:
    rows = report(house.whole)
    assert {row["source"] for row in rows} == {
        str(house.corpus / name) for name, data in files(house.corpus).items() if data and name != "notes.txt"
    }
    assert len(rows) == 24
    for row in rows:
        assert row["status"] == "ok" and row["error"] is None and row["warnings"] == [] and row["elapsed_s"] > 0
        assert row["seconds"] in (1.0, 2.0, 3.0)
        assert row["frames"] == len(Features.load(row["output"]).times)


def test_frames_of_the_last_layer_are_stored_in_float16_unless_asked_otherwise(house: House) -> None:
    features = Features.load(house.whole / "x.WAV.npz")
    assert features.values.shape == (1, 224, 32) and features.values.dtype == np.float16
    assert features.layers == ("layer03",) and features.times.dtype == np.float64
    assert features.meta["dtype"] == "float32" and features.meta["model"] == "tiny"
    assert features.meta["source"] == str(house.corpus / "x.WAV")


def test_damaged_recordings_are_embedded_counted_and_3(embed: Embed, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    whole = encoded(music(4.0), 24_000, "FLAC")
    files_of = {
        "whole.flac": whole, "bad.flac": damaged(whole, 0.5, 100),
        "cut.w64": encoded(music(4.0), 24_000, "W64")[:90_000],
        "notes.txt": b"x", "list.xyz": b"x", "n" * 251 + ".wav": encoded(music(1.0), 24_000, "WAV"),
    }  # fmt: skip
    for name, data in files_of.items():
        (folder / name).write_bytes(data)
    done = embed(inputs=(folder,)).end()
    assert done.code == 3 and "Traceback" not in done.err
    last = done.out.splitlines()[-1]
    assert last.startswith("4 embedded (2 damaged), 0 kept, 0 failed") and "passed over: 1 .txt, 1 .xyz" in last
    rows = {Path(row["source"]).name: row for row in report(tmp_path / "out")}
    assert {name: row["status"] for name, row in rows.items() if name[0] != "n"} == {
        "whole.flac": "ok", "bad.flac": "damaged", "cut.w64": "damaged",
    }  # fmt: skip
    assert re.search(r"damaged at 1\.\d+ s: 0\.\d\d s could not be decoded", rows["bad.flac"]["warnings"][0])
    assert "announces 4.00 s, 1.87 s could be decoded" in rows["cut.w64"]["warnings"][0]
    assert rows["bad.flac"]["frames"] == rows["whole.flac"]["frames"]
    assert "damaged: " + str(folder / "bad.flac") in done.out
    assert all(Path(row["output"]).exists() for row in rows.values())


def test_bad_files_among_good_ones_are_3_and_change_no_other_output(house: House, embed: Embed, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "corrupt.wav").write_bytes(b"RIFF....WAVEfmt " + bytes(range(256)))
    (bad / "empty.mp3").touch()
    (bad / "song.xyz").write_text("named, so it is tried")
    soundfile.write(bad / "nan.wav", [0.0, np.nan] * 20_000, 24_000, subtype="FLOAT")
    named = [bad / name for name in ("corrupt.wav", "empty.mp3", "song.xyz", "nan.wav", "x" * 300 + ".wav")]
    done = embed(inputs=(*named[:2], house.corpus, *named[2:], tmp_path / "missing")).end()
    assert done.code == 3 and "24 embedded, 0 kept, 6 failed" in done.out
    assert files(tmp_path / "out") == files(house.whole)
    rows = report(tmp_path / "out")
    assert len(rows) == 30
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["source"] for row in failed} == {str(path) for path in (*named, tmp_path / "missing")}
    for row in failed:
        assert row["source"] in row["error"] and row["source"] in done.out and row["frames"] == 0
    assert "Traceback" not in done.err


@pytest.mark.parametrize("options", [("--workers", 2), ("--batch-size", "auto")], ids=["workers", "batches"])
def test_two_workers_or_shared_batches_agree_with_one(
    options: tuple[object, ...], house: House, embed: Embed, tmp_path: Path
) -> None:
    """Within rule 3, not to the bit: fewer threads or more rows are summed in another order."""
    done = embed(*options, "--save-dtype", "float32").end()
    assert done.code == 0, done
    assert set(files(tmp_path / "out")) == set(files(house.whole)) and len(report(tmp_path / "out")) == 24
    one = mert.load(house.model, device="cpu")
    for row in report(tmp_path / "out"):
        got, wanted = Features.load(row["output"]), one.embed(row["source"], layers=[-1])
        assert np.array_equal(got.times, wanted.times) and all_close(got.values, wanted.values)


def test_shards_limits_and_skipping_add_up_to_the_whole(house: House, embed: Embed, tmp_path: Path) -> None:
    shards = [process.end() for process in [embed("--shard", "1/2"), embed("--shard", "2/2")]]
    assert [shard.code for shard in shards] == [0, 0]
    assert files(tmp_path / "out") == files(house.whole)
    sources = [[row["source"] for row in report(tmp_path / "out", f"report-{i}-of-2.jsonl")] for i in (1, 2)]
    assert list(map(len, sources)) == [12, 12] and not set(sources[0]) & set(sources[1])
    shutil.rmtree(tmp_path / "out")
    assert "5 embedded" in embed("--limit", 5).end().out
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")}
    done = embed("--skip-existing").end()
    assert done.code == 0 and "19 embedded, 5 kept, 0 failed" in done.out
    assert len(times) == 5 and all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert files(tmp_path / "out") == files(house.whole)
    assert len(report(tmp_path / "out")) == 24  # what the first run tried, and what the second did


def test_a_report_that_a_kill_left_short_is_completed(house: House, embed: Embed, tmp_path: Path) -> None:
    assert embed().end().code == 0
    lines = (tmp_path / "out" / "report.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "report.jsonl").write_text("".join(lines[:20]) + lines[20][:-9])
    assert "0 embedded, 24 kept" in embed("--skip-existing").end().out
    torn = (tmp_path / "out" / "report.jsonl").read_text().splitlines(keepends=True)
    assert torn[20] == lines[20][:-9] + "\n"  # it swallows no line behind it
    rows = [json.loads(line) for line in torn[:20] + torn[21:]]
    assert len({row["output"] for row in rows}) == len(rows) == 24
    assert [row["status"] for row in rows] == ["ok"] * 20 + ["skipped"] * 4


def test_an_output_folder_removed_meanwhile_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        shutil.rmtree(tmp_path / "out")
        yield {"status": "ok", "seconds": 1.0, "frames": 75, "error": None, "warnings": [], "output": "a.npz"}

    (tmp_path / "out").mkdir()
    counts = embed_cli.follow(
        rows(), embed_cli.Meter([Job("a.wav", "a.npz")], 1.0), tmp_path / "out" / "report.jsonl", append=False
    )
    assert counts["unreported"] == 1 and "the report was removed" in capsys.readouterr().out


def test_rows_that_an_executor_owes_are_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = embed_cli.follow(
        iter(()),
        embed_cli.Meter([Job("a.wav", "a.npz"), Job("b.wav", "b.npz")], 1.0),
        tmp_path / "report.jsonl",
        append=False,
    )
    assert counts["lost"] == 2 and "2 files not reached" in capsys.readouterr().out


def test_a_shard_without_files_is_0(embed: Embed, house: House, tmp_path: Path) -> None:
    done = embed("--shard", "3/3", inputs=(house.corpus / "x.WAV",)).end()
    assert done.code == 0 and done.out.splitlines()[-1].startswith("0 embedded, 0 kept, 0 failed")


def test_killed_at_any_moment_and_run_again_it_gives_what_an_undisturbed_run_gives(
    house: House, embed: Embed, tmp_path: Path
) -> None:
    chance = random.Random(0)
    out, n_made = tmp_path / "out", 0
    for _ in range(6):
        process = embed("--skip-existing")
        while process.running() and count(out) <= n_made:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        process.signal(signal.SIGKILL)
        process.end()
        made = [path for path in out.rglob("*.npz") if ".tmp" not in str(path)]
        n_made = len(made)
        assert all(Features.load(path).values.size for path in made)  # none half-written
    last = embed("--skip-existing").end()
    assert last.code == 0 and "24 files" in last.out
    assert files(out) == files(house.whole)


@pytest.mark.check
def test_workers_end_when_their_parent_is_killed(embed: Embed, tmp_path: Path) -> None:
    process = embed("--workers", 2, "--layers", "all", fork=False)
    while process.running() and not count(tmp_path / "out"):
        time.sleep(0.01)
    children = descendants(process.pid)
    process.signal(signal.SIGKILL)
    process.end()
    deadline = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(children) >= 4 and not any(map(alive, children))  # two servers of multiprocessing, and the workers


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_ctrl_c_is_130_and_says_how_to_go_on(embed: Embed, tmp_path: Path) -> None:
    process = embed("--layers", "all", "--window", 0.1, fork=False)
    while process.running() and not count(tmp_path / "out"):
        time.sleep(0.002)
    process.signal(signal.SIGINT)
    done = process.end()
    assert done.code == 130 and "stopped; run the same command with --skip-existing" in done.err
    assert "Traceback" not in done.err and not list((tmp_path / "out").rglob("*.tmp"))


def test_several_commands_at_once_on_one_output_folder_do_no_harm(house: House, embed: Embed, tmp_path: Path) -> None:
    runs = [process.end() for process in [embed(), embed(), embed("--skip-existing")]]
    assert [run.code for run in runs] == [0, 0, 0], runs
    assert files(tmp_path / "out") == files(house.whole)
    rows = report(tmp_path / "out")  # every line is whole; the last command may have met outputs not reported yet
    assert {row["status"] for row in rows} <= {"ok", "skipped"} and len({row["output"] for row in rows}) == 24


def test_a_full_disk_is_3_leaves_nothing_partial_and_a_second_run_completes(
    house: House, embed: Embed, tmp_path: Path
) -> None:
    done = embed(limit=True).end()
    assert done.code == 3 and "8 embedded, 0 kept, 16 failed" in done.out
    whole = files(house.whole)
    assert {name: data for name, data in files(tmp_path / "out").items() if data}.items() <= whole.items()
    failed = [row for row in report(tmp_path / "out") if row["status"] == "failed"]
    assert len(failed) == 16
    for row in failed:
        assert row["error"].startswith(f"{row['output']}: cannot be written (File too large)")
    assert embed("--skip-existing").end().code == 0
    assert files(tmp_path / "out") == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, where the system lets us mount one."""
    disk = tmp_path / "out"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_without_a_byte_left_is_3_and_a_second_run_completes(
    house: House, embed: Embed, small_disk: Path
) -> None:
    """Here the report cannot be written either, but what is there is whole."""
    (small_disk / "other").write_bytes(bytes(40_960))
    done = embed().end()
    assert done.code == 3 and "No space left on device" in done.out and "Traceback" not in done.err
    made = {name: data for name, data in files(small_disk).items() if data and name != "other"}
    assert made.items() <= files(house.whole).items()
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert embed("--skip-existing").end().code == 0
    assert files(small_disk) == files(house.whole)


def test_all_layers_in_float32_agree_with_embed(house: House, embed: Embed, tmp_path: Path) -> None:
    options = ["--layers", "all", "--save-dtype", "float32", "--window", 0.7, "--hop", 0.4, "--batch-size", 3]
    assert embed(*options, inputs=(house.corpus / "x.WAV",)).end().code == 0
    got = Features.load(tmp_path / "out" / "x.WAV.npz")
    wanted = mert.load(house.model, device="cpu").embed(house.corpus / "x.WAV", window=0.7, hop=0.4)
    assert got.layers == wanted.layers and np.array_equal(got.times, wanted.times)
    assert all_close(got.values, wanted.values)


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--layers", "layer99"], "no layer 'layer99'"),
        (["--layers", "1,x"], "no layer 'x'"),
        (["--layers", "1,1"], "hold layer01 twice"),
        (["--layers", ""], "no layer ''"),
        (["--window", "soon"], 'window is a number of seconds or "whole"'),
        (["--window", "0"], "has no frame"),
        (["--window", "nan"], "has no frame"),
        (["--hop", "9"], "a hop of 9.0 s"),
        (["--window", "whole", "--hop", "1"], "has no hop"),
        (["--batch-size", "0"], "batch_size is a positive integer"),
        (["--batch-size", "many"], "batch_size is a positive integer"),
        (["--shard", "3/2"], "not a shard"),
        (["--device", "abacus"], "--device abacus"),
        (["--device", "cuda:0", "--executor", "ray"], "Ray gives each actor a GPU of its own"),
        (["--list", "missing\nlist.txt"], "missing\\nlist.txt: no such file"),
    ],
)
def test_wrong_usage_is_2_and_one_line(house: House, tmp_path: Path, options: list[str], reason: str) -> None:
    done = run_mert("embed", house.corpus, "-o", tmp_path / "out", "-m", house.model, *options)
    assert done.code == 2 and done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert reason in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed"], ["embed", "x.wav"], ["embed", "-o", "out"], ["embed", "x.wav", "-o", "out", "--dtype", "int4"],
        ["embed", "x.wav", "-o", "out", "--workers", "0"], ["embed", "x.wav", "-o", "out", "--limit", "0"],
        ["embed", "x.wav", "-o", "out", "--executor", "cloud"], ["embed", "x.wav", "-o", "out", "--pool", "max"],
        ["sing"], ["info"], ["models", "--yaml"], ["export", "a", "b", "--to", "coreml"],
        ["export", "a", "b", "--check"],
    ],
)  # fmt: skip
def test_wrong_options_are_2(arguments: list[str]) -> None:
    done = run_mert(*arguments)
    assert done.code == 2 and done.err and "Traceback" not in done.err


def test_two_inputs_for_one_output_are_2(house: House, tmp_path: Path) -> None:
    (tmp_path / "x.WAV").touch()
    done = run_mert("embed", house.corpus, tmp_path / "x.WAV", "-o", tmp_path / "out", "-m", house.model)
    assert done.code == 2 and "two inputs for one output" in done.err


def test_an_output_folder_that_cannot_be_made_is_one_line(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    inside = run_mert("embed", house.corpus, "-o", tmp_path / "file" / "out", "-m", house.model)
    assert inside.code == 1 and len(inside.err.splitlines()) == 1 and str(tmp_path / "file") in inside.err
    assert run_mert("embed", house.corpus, "-o", tmp_path / "file", "-m", house.model).code == 2


def test_an_unknown_model_is_1_with_close_names(house: House, tmp_path: Path) -> None:
    done = run_mert("embed", house.corpus, "-o", tmp_path / "out", "-m", "mert-v1-96m")
    assert done.code == 1 and "try mert-v1-95m" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["", *COMMANDS, "bench synth", "plot codes"])
def test_help_comes_without_torch(command: str) -> None:
    code = (
        "import sys\nfrom mert.cli import main as cli\ntry:\n    cli.app([*sys.argv[1:], '--help'])\nfinally:\n"
        "    assert not {'torch', 'numpy', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout and (command in done.stdout if command else all(c in done.stdout for c in COMMANDS))


def test_models_are_listed_for_people_and_programs() -> None:
    listed = json.loads(run_mert("models", "--json").out)
    assert [model["name"] for model in listed] == mert.list_models()
    assert all(model["licence"] and model["dim"] in (256, 768, 1024) for model in listed)
    assert [model["name"] for model in json.loads(run_mert("models", "*330m", "--json").out)] == ["mert-v1-330m"]
    assert "mert-v0" in run_mert("models").out and json.loads(run_mert("models", "nothing", "--json").out) == []


def test_models_come_without_torch() -> None:
    code = (
        "import sys\nfrom mert.cli import main as cli\ntry:\n    cli.app(['models', '--json'])\nfinally:\n"
        "    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and len(json.loads(done.stdout)) == len(mert.list_models()), done.stderr


def test_info_says_what_is_on_record() -> None:
    facts = json.loads(run_mert("info", "m-a-p/MERT-v1-330M", "--json").out)
    assert facts["name"] == "mert-v1-330m" and facts["n_layers"] == 24 and facts["licence"] == "CC BY-NC 4.0"
    assert "not on record" in run_mert("info", "mert-v0").out
    unknown = run_mert("info", "bert")
    assert unknown.code == 1 and len(unknown.err.splitlines()) == 1


def test_verify_convert_and_export_work_together(house: House, tmp_path: Path) -> None:
    checked = run_mert("verify", house.model)
    assert checked.code == 0 and "largest difference" in checked.out
    assert run_mert("export", house.model, tmp_path / "hubert").code == 0
    assert json.loads((tmp_path / "hubert" / "config.json").read_text())["model_type"] == "hubert"
    assert run_mert("export", house.model, tmp_path / "copy", "--to", "safetensors").code == 0
    assert run_mert("convert", tmp_path / "hubert", tmp_path / "back").code == 0
    before, after = ((Path(folder) / "model.safetensors").read_bytes() for folder in (house.model, tmp_path / "back"))
    assert before == after == (tmp_path / "copy" / "model.safetensors").read_bytes()


def test_verify_and_push_refuse_a_damaged_model(house: House, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(house.model, tmp_path / "damaged"))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    for command in (["verify", folder], ["push", folder, "me/model"], ["verify", tmp_path]):
        done = run_mert(*command)
        assert done.code == 1 and str(command[1]) in done.err and len(done.err.splitlines()) == 1


def test_a_model_is_replaced_only_where_that_is_asked_for(house: House, tmp_path: Path) -> None:
    assert run_mert("export", house.model, tmp_path / "model").code == 0
    for command in ("export", "convert"):
        refused = run_mert(command, house.model, tmp_path / "model")
        assert refused.code == 2 and "holds config.json; give another folder, or --overwrite" in refused.err
        assert run_mert(command, house.model, tmp_path / "model", "--overwrite").code == 0


def test_files_beside_no_model_are_not_replaced_unasked(house: House, tmp_path: Path) -> None:
    """Such as the card in the clone of a repository."""
    for name in ("README.md", "preprocessor_config.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        for command in ("export", "convert"):
            refused = run_mert(command, house.model, folder)
            assert refused.code == 2 and f"holds {name}; give another folder, or --overwrite" in refused.err
        assert [path.name for path in folder.iterdir()] == [name] and (folder / name).read_text() == "mine"


def test_arrays_of_others_are_not_replaced_unasked(house: House, tmp_path: Path) -> None:
    """Other programs write features beside recordings, too."""
    shutil.copyfile(house.corpus / "x.WAV", tmp_path / "x.WAV")
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "x.WAV.npz", mfcc=np.zeros(3))
        before = (tmp_path / "x.WAV.npz").read_bytes()
        command = ("embed", tmp_path, "-o", tmp_path, "-m", house.model, *EXACT)
        for more in ((), ("--skip-existing",)):
            refused = run_mert(*command, *more)
            assert refused.code == 2 and "x.WAV.npz: holds no features of mert embed; give another -o" in refused.err
            assert (tmp_path / "x.WAV.npz").read_bytes() == before
    assert run_mert(*command, "--overwrite").code == 0 and Features.load(tmp_path / "x.WAV.npz").layers


def test_a_report_keeps_lines_of_files_that_a_command_elsewhere_embedded(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("-m", house.model, *EXACT)
    (tmp_path / "a").mkdir()
    for name in ("1.wav", "2.wav"):
        shutil.copyfile(house.corpus / "x.WAV", tmp_path / "a" / name)
    monkeypatch.chdir(tmp_path / "a")
    assert run_mert("embed", "1.wav", "-o", "out", *words).code == 0
    monkeypatch.chdir("/")
    assert run_mert("embed", tmp_path / "a/2.wav", "-o", tmp_path / "a/out", *words).code == 0
    assert [Path(row["output"]).name for row in report(tmp_path / "a/out")] == ["1.wav.npz", "2.wav.npz"]
    (tmp_path / "a").rename(tmp_path / "b")
    assert run_mert("embed", tmp_path / "b/2.wav", "-o", tmp_path / "b/out", *words).code == 0
    assert [Path(row["output"]).name for row in report(tmp_path / "b/out")] == ["1.wav.npz", "2.wav.npz"]


def test_a_disk_that_is_too_small_is_said_before_the_work(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    done = run_mert("embed", house.corpus / "x.WAV", "-o", tmp_path / "out", "-m", house.model)
    assert done.code == 0 and "warning: " in done.out and "0.0 MiB are free" in done.out
    monkeypatch.undo()
    assert "warning" not in run_mert("embed", house.corpus / "x.WAV", "-o", tmp_path / "out", "-m", house.model).out
