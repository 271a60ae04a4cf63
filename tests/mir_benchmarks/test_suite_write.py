"""Writing the suite: the same bytes every time, resumed where it was cut, refused where something else lies."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mir_benchmarks.datasets.dataset import TaskError, synthetic_facts
from mir_benchmarks.suite.plans import CORPORA
from mir_benchmarks.suite.sizes import SIZES, Extent
from mir_benchmarks.suite.write import plan_corpus, write_suite
from mir_benchmarks.tasks.registry import TASKS

MICRO = {"gtzan": Extent(1, 1, 1, 1.5, groups=10), "musdb18": Extent(1, 1, 1, 1.0), "nsynth": Extent(11, 10, 10, 1.0)}


@pytest.fixture(autouse=True)
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", MICRO)


def contents(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def test_the_tree_says_what_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    home = write_suite(tmp_path / "suite", "micro", 5, corpora=MICRO, on_progress=lambda *news: told.append(news))
    assert home == tmp_path / "suite"
    facts = json.loads((home / "gtzan" / "SYNTHETIC.json").read_text())
    counts = {"train": 10, "valid": 10, "test": 10}
    assert facts == {"generator": "1", "seed": 5, "size": "micro", "seconds_of_audio": 45.0,
                     "counts": {"gtzan_genre": counts, "gtzan_beats": counts}}  # fmt: skip
    for task in ("gtzan_genre", "gtzan_beats", "nsynth_pitch", "nsynth_instrument", "musdb18"):
        corpus = home / TASKS[task].corpus
        assert synthetic_facts(corpus)
        assert TASKS[task].read(home).counts == TASKS[task].expected_counts(corpus)
    assert [news for news in told if news[0] == "gtzan"] == [("gtzan", done, 30) for done in (0, 8, 16, 24, 30)]
    assert not list(home.rglob("*.partial"))


def test_seed_decides_every_byte_and_workers_none(tmp_path: Path) -> None:
    alone = contents(write_suite(tmp_path / "a", "micro", 1, workers=1, corpora=["gtzan", "nsynth"]))
    several = contents(write_suite(tmp_path / "b", "micro", 1, workers=3, corpora=["nsynth", "gtzan"]))
    assert alone == several
    other = contents(write_suite(tmp_path / "c", "micro", 2, workers=2, corpora=["nsynth"]))
    sounds = {path: data for path, data in other.items() if path.endswith(".wav")}
    assert not {data for data in alone.values()} & set(sounds.values())


class CutError(Exception):
    """The user has enough."""


def test_resumes_where_it_was_cut(tmp_path: Path) -> None:
    """Whole files are kept as they are, half ones are none, the mark is set last."""

    def cut(corpus: str, done: int, total: int) -> None:
        if 8 <= done < total:
            raise CutError

    home = tmp_path / "suite"
    with pytest.raises(CutError):
        write_suite(home, "micro", workers=1, corpora=["gtzan"], on_progress=cut)
    early = {path: path.stat().st_mtime_ns for path in home.rglob("*.wav")}
    assert len(early) >= 8 and not (home / "gtzan" / "SYNTHETIC.json").exists()
    lost, _ = early.popitem()
    lost.unlink()
    (home / "gtzan" / "genres" / "blues" / ".blues.00029.wav.7.partial").write_bytes(b"half")
    write_suite(home, "micro", workers=2, corpora=["gtzan"])
    assert all(path.stat().st_mtime_ns == at for path, at in early.items())
    again = contents(write_suite(tmp_path / "again", "micro", corpora=["gtzan"]))
    assert {path: data for path, data in contents(home).items() if not path.endswith(".partial")} == again


def test_what_is_whole_is_left_alone(tmp_path: Path) -> None:
    home = write_suite(tmp_path / "suite", "micro", corpora=["nsynth"])
    before = {path: path.stat().st_mtime_ns for path in (home / "nsynth").rglob("*")}
    told: list[object] = []
    write_suite(home, "micro", corpora=["nsynth"], on_progress=lambda *news: told.append(news))
    assert told == [("nsynth", 31, 31)] and before == {
        path: path.stat().st_mtime_ns for path in (home / "nsynth").rglob("*")
    }
    track = home / "musdb18"
    write_suite(home, "micro", corpora=["musdb18"])
    lost = next(track.rglob("drums.wav"))
    data = lost.read_bytes()
    lost.unlink()
    (track / "SYNTHETIC.json").unlink()
    write_suite(home, "micro", corpora=["musdb18"])
    assert lost.read_bytes() == data


def test_other_options_and_other_folders_are_refused(tmp_path: Path) -> None:
    home = write_suite(tmp_path / "suite", "micro", corpora=[])
    for size, seed in (("micro", 1), ("tiny", 0)):
        with pytest.raises(TaskError, match="choose another folder"):
            write_suite(home, size, seed, corpora=[])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(TaskError, match="is not empty"):
        write_suite(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    for wrong in ({"size": "huge"}, {"corpora": ["fma"]}, {"seed": -1}, {"workers": 0}):
        with pytest.raises(TaskError):
            write_suite(tmp_path / "new", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


@pytest.mark.check
def test_fifty_times_faster_than_it_plays() -> None:
    """On two cores: a few recordings of each corpus in processor time, weighted by its seconds in the small suite."""
    per_second = {}
    for name in CORPORA:
        plan = plan_corpus(name, SIZES["tiny"][name])
        sample = plan.recordings[:: max(1, len(plan.recordings) // 4)]
        begin = time.process_time()
        for recording in sample:
            recording.encode()
        per_second[name] = (time.process_time() - begin) / sum(recording.seconds for recording in sample)
    seconds = {name: len(extent) * extent.seconds for name, extent in SIZES["small"].items()}
    cost = sum(per_second[name] * seconds[name] for name in CORPORA) / sum(seconds.values())
    assert 2 / cost >= 50, per_second
