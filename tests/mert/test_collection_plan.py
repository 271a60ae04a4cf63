"""Plans: every recording once, every output below OUT, and odd names taken as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mert.collection.plan import Job, Plan, plan, shard_of
from mert.errors import UsageError

Touch = Callable[..., Path]
UNDECODABLE = os.fsdecode(b"caf\xe9.wav")
ODD_NAMES = [
    "Sigur Rós – 雨の歌.wav", "two\nlines.wav", "-o.wav", "a b  c.wav", " .wav", "$(touch x);'\".wav", "\u2028line.wav",
    "[bold]:smile:.wav", ".hidden.wav", "%s\\n.wav", "tab\there.WAV", UNDECODABLE,
]  # fmt: skip


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """touch("in/a.wav", ...) makes empty files below the test's folder and returns the folder of the first."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return (tmp_path / names[0]).parent

    return make


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test runs in its own folder, so that relative paths can be given."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def outputs(found: Plan, out: Path) -> list[str]:
    return [os.path.relpath(job.output, out) for job in found.jobs]


def test_a_folder_is_mirrored_and_only_audio_is_taken(touch: Touch) -> None:
    folder = touch("in/b.wav", "in/sub/deep/a.FLAC", "in/a.mp3", "in/cover.jpg", "in/sub/notes.txt", "in/README")
    found = plan([folder], Path("out"))
    assert outputs(found, Path("out")) == ["a.mp3.npz", "b.wav.npz", "sub/deep/a.FLAC.npz"]
    assert found.passed_over == {".jpg": 1, ".txt": 1, "no suffix": 1}


def test_the_suffix_stays_so_that_recordings_of_one_stem_do_not_meet(touch: Touch) -> None:
    found = plan([touch("in/a.wav", "in/a.mp3")], Path("out"))
    assert outputs(found, Path("out")) == ["a.mp3.npz", "a.wav.npz"]


def test_a_named_file_is_always_tried_whatever_its_suffix(touch: Touch) -> None:
    folder = touch("in/song.xyz")
    found = plan([folder / "song.xyz", folder / "missing.wav"], Path("out"))
    assert outputs(found, Path("out")) == ["song.xyz.npz", "missing.wav.npz"]


def test_the_plan_is_the_same_each_time_whatever_order_the_disk_gives(touch: Touch) -> None:
    names = [f"in/{i % 3}/{i * 7919 % 100:02}.wav" for i in range(40)]
    folder = touch(*names).parent
    found = plan([folder], Path("out"))
    assert found == plan([folder], Path("out"))
    assert outputs(found, Path("out")) == sorted(name.removeprefix("in/") + ".npz" for name in names)


def test_two_inputs_for_one_output_are_refused_and_both_are_named(touch: Touch) -> None:
    a = touch("a/x.wav", "b/x.wav")
    with pytest.raises(UsageError, match=r"two inputs for one output: .*a/x\.wav and .*b/x\.wav"):
        plan([a, a.parent / "b"], Path("out"))


def test_an_input_given_twice_is_done_once(touch: Touch) -> None:
    folder = touch("a/x.wav")
    assert len(plan([folder, folder / "x.wav", folder], Path("out")).jobs) == 1


@pytest.mark.parametrize("names", [["in/notes.txt"], ["in/sub/.keep"]])
def test_a_folder_without_audio_is_refused_with_what_it_holds(touch: Touch, names: list[str]) -> None:
    touch("in/.keep", *names)
    folder = touch("in/.keep")
    with pytest.raises(UsageError, match="no audio files among the inputs"):
        plan([folder], Path("out"))


def test_no_input_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="no recordings are named"):
        plan([], Path("out"))


def test_symlink_loops_end_and_linked_folders_are_followed_once(touch: Touch) -> None:
    folder = touch("in/a.wav", "in/sub/b.wav")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "here").symlink_to(folder)
    (folder / "other").symlink_to(touch("elsewhere/c.wav"))
    (folder / "self.wav").symlink_to(folder / "self.wav")
    found = plan([folder], Path("out"))
    assert outputs(found, Path("out")) == ["a.wav.npz", "self.wav.npz", "other/c.wav.npz", "sub/b.wav.npz"]
    assert found.passed_over["linked folders seen before"] == 2


def test_notes_of_a_mac_on_files_are_passed_over_and_counted(touch: Touch) -> None:
    found = plan([touch("in/song.wav", "in/._song.wav", "in/sub/._x.mp3")], Path("out"))
    assert outputs(found, Path("out")) == ["song.wav.npz"] and found.passed_over == {"AppleDouble files": 2}


def test_pipes_in_a_folder_are_passed_over_because_opening_one_waits_for_ever(touch: Touch) -> None:
    folder = touch("in/a.wav")
    os.mkfifo(folder / "pipe.wav")
    found = plan([folder], Path("out"))
    assert outputs(found, Path("out")) == ["a.wav.npz"]
    assert sum(found.passed_over.values()) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_folders_that_cannot_be_read_are_counted(touch: Touch) -> None:
    folder = touch("in/a.wav", "in/locked/b.wav")
    (folder / "locked").chmod(0)
    try:
        assert sum(plan([folder], Path("out")).passed_over.values()) == 1
    finally:
        (folder / "locked").chmod(0o700)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).touch()
    (job,) = plan([tmp_path / "in"], tmp_path / "out").jobs
    assert job == Job(str(tmp_path / "in" / name), str(tmp_path / "out" / (name + ".npz")))
    assert plan([tmp_path / "in" / name], tmp_path / "out").jobs == (job,)


def test_inputs_of_which_none_is_there_are_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nosuch, .*none\.wav: is not there; check the path"):
        plan([tmp_path / "nosuch", tmp_path / "none.wav"], Path("out"))


def test_a_name_too_long_for_the_disk_is_a_job_like_any_other() -> None:
    (job,) = plan([Path("x" * 5000 + ".wav")], Path("out")).jobs
    assert job.output.endswith("x.wav.npz")


@pytest.mark.parametrize("given_path", ["../a.wav", "../../a.wav", "/etc/a.wav", "in/../../a.wav", "..", "in/.."])
def test_outputs_never_leave_the_output_folder(inside: Path, given_path: str) -> None:
    out = inside / "out"
    (inside / "list.txt").write_text(f"{given_path}\nin/b.wav\n")
    try:
        found = plan([Path(given_path)], out).jobs
    except UsageError:  # a folder with no audio in it
        found = ()
    found += plan([], out, Path("list.txt")).jobs
    for job in found:
        assert Path(os.path.normpath(job.output)).is_relative_to(out), job


def test_a_list_mirrors_below_the_common_folder(inside: Path) -> None:
    Path("list.txt").write_text("music/a/x.wav\n\n  \nmusic/b/x.wav\n./music/b/../b/y.wav\n")
    found = plan([], Path("out"), Path("list.txt"))
    assert outputs(found, Path("out")) == ["a/x.wav.npz", "b/x.wav.npz", "b/y.wav.npz"]


def test_a_list_of_one_gives_its_name(inside: Path) -> None:
    Path("list.txt").write_text("music/a/x.wav")
    assert outputs(plan([], Path("out"), Path("list.txt")), Path("out")) == ["x.wav.npz"]


def test_a_list_and_inputs_together_are_one_plan(touch: Touch, inside: Path) -> None:
    Path("list.txt").write_text("music/x.wav\n")
    assert outputs(plan([touch("in/a.wav")], Path("out"), Path("list.txt")), Path("out")) == ["a.wav.npz", "x.wav.npz"]


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if "\n" not in name])
def test_a_list_holds_odd_names_line_by_line(inside: Path, name: str) -> None:
    Path("list.txt").write_bytes(os.fsencode(f"in/{name}\nin/other.wav\n"))
    first, second = plan([], Path("out"), Path("list.txt")).jobs
    assert (first.source, second.source) == (f"in/{name}", "in/other.wav")


def test_a_list_written_on_windows_is_read(inside: Path) -> None:
    Path("list.txt").write_bytes(b"in/a.wav\r\nin/b.wav\r\n")
    assert [job.source for job in plan([], Path("out"), Path("list.txt")).jobs] == ["in/a.wav", "in/b.wav"]


@pytest.mark.parametrize("text", [None, "", "\n \n"])
def test_a_missing_or_empty_list_is_refused(inside: Path, text: str | None) -> None:
    if text is not None:
        Path("list.txt").write_text(text)
    with pytest.raises(UsageError, match=r"^list\.txt: "):
        plan([], Path("out"), Path("list.txt"))


@given(st.integers(0, 60), st.integers(1, 70))
def test_shards_partition_the_jobs_exactly_and_evenly(n_jobs: int, n: int) -> None:
    jobs = tuple(Job(f"{i}.wav", f"{i}.npz") for i in range(n_jobs))
    shards = [shard_of(jobs, f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted((job for shard in shards for job in shard), key=jobs.index) == list(jobs)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "-1/2", "1", "1/", "/2", "a/b", "1/2/3", "1/0", "", "1.0/2", "²/3"])
def test_what_is_no_shard_is_refused(shard: str) -> None:
    with pytest.raises(UsageError, match="give i/n"):
        shard_of((Job("a", "b"),), shard)


def test_a_file_that_cannot_be_looked_at_stops_nothing(touch: Touch, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder that may not be entered, or on a disk that is gone: the error gets a row when it is tried."""
    folder = touch("in/a.wav", "in/locked/b.wav")

    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_fifo", refused)
    assert outputs(plan([folder], Path("out")), Path("out")) == ["a.wav.npz", "locked/b.wav.npz"]


def test_a_list_may_begin_with_a_mark(touch: Touch, tmp_path: Path) -> None:
    """Windows programs write one."""
    song = touch("in/a.wav") / "a.wav"
    (tmp_path / "list.txt").write_text(f"{song}\n", encoding="utf-8-sig")
    assert [job.source for job in plan([], Path("out"), tmp_path / "list.txt").jobs] == [str(song)]
