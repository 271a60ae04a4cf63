"""Sampled music: real scores split by piece, excerpts whose beats are where notes are, clips that sound as written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from harness.scores import POLYPHONY, TUNES, forget, invented_scores, with_scores, with_sounds

from mert.errors import UsageError
from mert.train.corpus.opening import open_corpus
from mert.weights.licences import strictest
from mir_benchmarks.synth import pieces as pieces_module
from mir_benchmarks.synth.arrange import Tempo, arrange, triad_of
from mir_benchmarks.synth.band import Band, Instrument, hire, render_band, strokes_of
from mir_benchmarks.synth.banks import banks_of
from mir_benchmarks.synth.compose import compose
from mir_benchmarks.synth.effects import Finish, compress, drawn_finish
from mir_benchmarks.synth.pieces import Piece, key_of, pieces, pieces_of, split_of, tune_of
from mir_benchmarks.synth.programs import range_of
from mir_benchmarks.synth.render import mix, total
from mir_benchmarks.synth.sampled import KINDS, SampledCorpus
from mir_benchmarks.synth.score import STEMS, Note, Part, Score
from mir_benchmarks.synth.write import write_hours

GROUPS = (POLYPHONY, TUNES)
RESTRICTIONS = ("ut orpheus", "reserved", "commercial", "permission", "licens", "general public", "creative commons")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Invented scores in a user's cache of its own."""
    with invented_scores(tmp_path, monkeypatch):
        yield tmp_path


def made_piece(**changes: object) -> Piece:
    """Two bars of a C major scale in quarters over two long tones."""
    onset_N = np.array([0, 0, 1, 2, 3, 4, 4, 5, 6, 7], np.float64)
    values = {
        "name": "made/scale", "group": "handel", "tune": "scale", "metre": (4, 4), "tonic": 0, "mode": "major",
        "key_is_sure": True, "beats": tuple((float(i), i % 4 + 1) for i in range(8)), "onset_N": onset_N,
        "part_N": np.array([0, 1, 0, 0, 0, 0, 1, 0, 0, 0], np.int16),
        "duration_N": np.array([1, 4, 1, 1, 1, 1, 4, 1, 1, 1], np.float64),
        "midi_N": np.array([60, 48, 62, 64, 65, 67, 43, 69, 71, 72], np.int16),
    }  # fmt: skip
    return Piece(**{**values, **changes})  # type: ignore[arg-type]


def test_versions_of_a_tune_are_in_one_split() -> None:
    assert tune_of("ryansMammoth", "The Devil's Dream Reel") == tune_of("oneills1850", "Devil's Dream")
    assert tune_of("mozart", "k458/movement1") == tune_of("mozart", "k458/movement4") != tune_of("mozart", "k80/m1")
    assert tune_of("trecento", "PMFC_06-Jacopo-03a-Di_Novo") == tune_of("trecento", "PMFC_06-Jacopo-03b-Di_Novo")
    shares = Counter(split_of(f"tune {i}") for i in range(3_000))
    assert 0.77 < shares["train"] / 3_000 < 0.83 and 0.08 < shares["test"] / 3_000 < 0.12


def test_keys_that_everything_agrees_on() -> None:
    scale = np.array([60, 62, 64, 65, 67, 69, 71, 72, 60, 64, 67])
    assert key_of(scale, np.ones(11), 0, 0) == (0, "major", True)
    assert key_of(scale + 3, np.ones(11), -3, 3) == (3, "major", True)
    assert key_of(scale, np.ones(11), 0, 9)[2] is False, "ends on another note"
    assert key_of(scale, np.ones(11), 1, 0) == (4, "minor", False), "has another signature"
    assert key_of(scale, np.ones(11), None, 0) == (0, "major", False)


@with_scores
def test_scores_are_read_once_and_are_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pieces.cache_clear()
    read = pieces(GROUPS)
    aria = next(piece for piece in read if piece.group == "handel")
    assert aria.n_parts == 3 and aria.metre == (4, 4) and not aria.key_is_sure and aria.tune == "handelrinaldo"
    cuckoo, czech = (piece for piece in read if piece.group == "nottingham-dataset")
    assert (cuckoo.tonic, cuckoo.mode, cuckoo.key_is_sure) == (2, "major", True) and cuckoo.n_parts == 1
    assert (czech.tonic, czech.mode, czech.key_is_sure) == (9, "minor", True)
    assert list(cuckoo.midi_N[:5]) == [69, 69, 74, 74, 73], "its first notes, and no chord symbols among them"
    assert list(cuckoo.onset_N[:4]) == [0, 1, 1.5, 2] and cuckoo.beats[:3] == ((0, 4), (1, 1), (2, 2)), "an upbeat"
    assert set(np.diff([quarter for quarter, _ in cuckoo.beats])) == {1.0}, "bars cut by repeats are whole again"
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    pieces.cache_clear()
    assert [piece.name for piece in pieces(GROUPS)] == [piece.name for piece in read]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")} == written
    pieces.cache_clear()


@with_scores
@pytest.mark.check
def test_files_that_are_used_state_no_restriction() -> None:
    for group in pieces_module.GROUPS:
        for path in pieces_module.files_of(group):
            data = path.read_bytes()
            if path.suffix == ".mxl":
                with zipfile.ZipFile(path) as parts:
                    data = b"".join(parts.read(name) for name in parts.namelist())
            text = data.decode("utf-8", "replace").lower()
            for word in (
                "ut orpheus",
                "reserved",
                "non-commercial",
                "noncommercial",
                "permission",
                "licens",
                "general public",
            ):
                assert word not in text, (path, word)


def test_beats_bend_with_the_notes() -> None:
    """A note that is on a beat in the score is on it in the excerpt; rubato moves both."""
    piece = made_piece()
    for way in ("ensemble", "solo"):
        score = arrange(piece, (8, 0, 3), 20.0, way, rubato=True).score
        times = np.array([time for time, _ in score.beats])
        steps = np.diff(times)
        assert steps.std() > 0.005 * steps.mean() and (steps > 0).all()
        inner = [note.onset_s for note in score.notes if 0 < note.onset_s < times[-1]]
        assert len(inner) >= 5 and max(np.abs(times - onset).min() for onset in inner) < 1e-9
    even = np.diff([time for time, _ in arrange(piece, (8, 0, 3), 6.0, "solo", rubato=False).score.beats])
    assert np.allclose(even, 60 / arrange(piece, (8, 0, 3), 6.0, "solo", rubato=False).score.tempo_bpm, rtol=1e-3)
    tempo = Tempo(0.0, 0.5, 0.12, 20.0, 1.0)
    assert (np.diff(tempo.at(np.arange(0, 40, 0.1))) > 0).all()


def test_an_excerpt_repeats_a_short_piece_and_moves_its_key() -> None:
    piece = made_piece()
    one, other = (arrange(piece, (8, 0, seed), 20.0, "ensemble").score for seed in (1, 2))
    assert one == arrange(piece, (8, 0, 1), 20.0, "ensemble").score
    assert max(note.onset_s for note in one.notes) > 17 and one.beats[-1][0] > 18
    assert (one.tonic, one.tempo_bpm) != (other.tonic, other.tempo_bpm)
    moved = {(note.midi - one.tonic) % 12 for note in one.notes}
    assert moved == {0, 2, 4, 5, 7, 9, 11}, "the scale, in the key that the score names"
    with pytest.raises(ValueError, match="no way 'loud'"):
        arrange(piece, (8, 0, 1), 5.0, "loud")


def test_a_tune_gets_chords_that_it_goes_with() -> None:
    piece = made_piece(part_N=np.zeros(10, np.int16))
    assert triad_of(made_piece(midi_N=np.array([60, 48, 64, 67, 60, 67, 43, 71, 74, 67], np.int16)), 0, 4) == "I"
    assert triad_of(made_piece(midi_N=np.array([60, 48, 64, 67, 60, 67, 43, 71, 74, 67], np.int16)), 4, 8) == "V"
    score = arrange(piece, (8, 0, 5), 10.0, "backed").score
    roles = [part.role for part in score.parts]
    assert roles[:3] == ["lead", "bass", "comp block"] and {note.part for note in score.notes} >= {0, 1, 2}
    bass = [note for note in score.notes if note.part == 1 and note.onset_s > 0.2]
    starts = [chord.onset_s for chord in score.chords]
    assert sum(min(abs(note.onset_s - start) for start in starts) < 1e-9 for note in bass) >= len(bass) // 2


def test_players_stay_within_their_range() -> None:
    low, high = range_of(40)
    notes = tuple(Note(0, 0.2 * i, 0.2, 30 + 6 * i, 0.5) for i in range(12))
    score = dataclasses.replace(
        compose(0, 4.0, style="jazz"), parts=(Part("lead", "other", "string", 0, 0.0),), notes=notes
    )
    strokes = strokes_of(score, 0, Instrument("csound", 40, velocity=(10, 200)))
    assert all(low <= stroke.key <= high for stroke in strokes) and all(1 <= s.velocity <= 127 for s in strokes)
    assert [stroke.key % 12 for stroke in strokes] == [note.midi % 12 for note in notes]
    short = strokes_of(score, 0, Instrument("csound", 40, share=0.4))
    assert all(abs((stroke.end_s - stroke.onset_s) - 0.08) < 1e-9 for stroke in short)


def test_a_compressor_evens_levels_and_leaves_the_rest() -> None:
    rng = np.random.default_rng(0)
    wave_N = rng.standard_normal(48_000).astype(np.float32) * np.repeat([1.0, 0.05], 24_000).astype(np.float32)
    even_N = compress(wave_N, 1.0, 24_000)
    before, after = (20 * np.log10(w[:20_000].std() / w[30_000:].std()) for w in (wave_N, even_N))
    assert before > 25 and after < 0.6 * before and np.abs(compress(wave_N, 0.0, 24_000) - wave_N).max() < 1e-6
    assert not compress(np.zeros(100, np.float32), 0.5, 24_000).any()
    assert {type(drawn_finish((8, 0, i)).squeeze) for i in range(4)} == {float} and drawn_finish((8, 0, 1)) != Finish


@with_sounds
def test_stems_sum_to_the_mix_and_are_where_they_belong(cached: Path) -> None:
    score = compose((8, 0, 4), 4.0, style="pop", vocals=True)
    band = hire(score, banks_of("test"))
    for mono in (True, False):
        stems = render_band(score, band, 16_000, mono=mono)
        assert tuple(stems) == STEMS and all(np.abs(stem).max() > 0.01 for stem in stems.values())
        assert stems["other"].shape == ((64_000,) if mono else (64_000, 2))
        if not mono:
            assert np.abs(stems["other"][:, 0] - stems["other"][:, 1]).max() > 1e-3
    stems = render_band(score, band, 16_000)
    plain_N = mix(stems, score, 16_000, room=False, eq=False, noise=False, level=False)
    assert np.array_equal(plain_N, total(stems))
    silent = Band(band.instruments, dataclasses.replace(band.kit, velocity=(0.0, 0.0)))
    assert np.abs(render_band(score, silent, 16_000)["drums"]).max() > 0, "levels are those of the score"


@with_sounds
def test_a_clip_is_a_pure_function_of_its_index(cached: Path) -> None:
    music = SampledCorpus(seed=3, n_items=12, seconds=1.0, groups=",".join(GROUPS))
    kinds = [music.clip(i).kind for i in range(12)]
    assert len(set(kinds)) >= 4 and set(kinds) <= set(KINDS)
    forwards = [music.read(i).tobytes() for i in range(12)]
    again = pickle.loads(pickle.dumps(music))
    assert [again.read(i).tobytes() for i in reversed(range(12))] == forwards[::-1]
    code = "import hashlib; from mir_benchmarks.synth.sampled import SampledCorpus as C;"
    code += f"print(hashlib.sha256(C(3, 12, 1.0, groups='{','.join(GROUPS)}').read(5).tobytes()).hexdigest())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(forwards[5]).hexdigest()
    for data in forwards:
        wave_N = np.frombuffer(data, np.float32)
        assert len(wave_N) == 24_000 and np.isfinite(wave_N).all()
        assert np.sqrt(np.mean(wave_N**2)) > 1e-3 and np.abs(wave_N).max() < 1


@with_scores
def test_a_tune_under_another_title_is_left_out(cached: Path) -> None:
    """A tune of test that begins like one of train, in another key and after an upbeat, is in neither list of test."""
    path = pieces_module.cache_folder() / f"{TUNES}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    at = {split: [i for i, row in enumerate(rows) if split_of(tune_of(TUNES, row["title"])) == split]
          for split in ("train", "test")}  # fmt: skip
    twin, original = rows[at["test"][0]], rows[at["train"][0]]
    twin["midi"] = [50, *(midi + 3 for midi in original["midi"][:-1])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    forget()
    names = {piece.name for piece in pieces_of("test", True, GROUPS)}
    assert twin["name"] not in names and len(names) == len(at["test"]) - 1
    assert original["name"] in {piece.name for piece in pieces_of("train", True, GROUPS)}


@with_sounds
def test_purposes_share_no_piece_and_test_no_bank(cached: Path) -> None:
    found: dict[str, set[str]] = {}
    for purpose in ("train", "valid", "test"):
        music = SampledCorpus(n_items=60, seconds=1.0, purpose=purpose, groups=",".join(GROUPS))
        clips = [music.clip(i) for i in range(60)]
        banks = {bank for clip in clips if clip.band for bank in clip.band.banks}
        assert banks == set(banks_of("test" if purpose == "test" else "train"))
        found[purpose] = {clip.piece for clip in clips if clip.piece}
        for clip in clips:
            row = json.loads(json.dumps(clip.as_dict()))
            players = clip.band.instruments if clip.band else (None,)
            sung, by_banks = None in players, any(players) or bool(clip.band and clip.score.hits)
            alone = "Apache-2.0" if sung else "public domain"
            assert row["licence"] == ("MIT" if by_banks and purpose != "test" else alone), row["sources"]
            assert len(row["sources"]) >= by_banks + sung + bool(clip.piece)
    assert all(found.values()) and sum(map(len, found.values())) == len(set().union(*found.values()))
    with pytest.raises(ValueError, match="purpose is one of"):
        SampledCorpus(purpose="bench")
    tunes = [{piece.tune for piece in pieces_of(split, True, GROUPS)} for split in ("train", "test")]
    assert not tunes[0] & tunes[1]


@with_sounds
def test_notes_of_a_solo_are_the_pitches_of_its_score(cached: Path) -> None:
    """By the spectrum in the middle of each long note: its pitch, or an octave of it, is a peak."""
    score = Score((8, 0, 0), 6.0, "pop", 0, "major", 60.0, (4, 4), 0.0, ("acoustic", 0),
                  (Part("lead", "other", "flute", 0, 0.0),), (), (), (),
                  tuple(Note(0, float(i), 0.95, 72 + 2 * i, 0.8) for i in range(6)), ())  # fmt: skip
    wave_N = render_band(score, hire(score, banks_of("train"), [73]), 16_000)["other"]
    for note in score.notes:
        middle_N = wave_N[round((note.onset_s + 0.3) * 16_000) :][:8_000] * np.hanning(8_000)
        level = np.abs(np.fft.rfft(middle_N, 1 << 16))
        hz = np.argmax(level) * 16_000 / (1 << 16)
        cents = 1200 * np.log2(hz / 440) - 100 * (note.midi - 69)
        assert abs((cents + 600) % 1200 - 600) < 50, (note, hz)


@with_sounds
@pytest.mark.parametrize("borrowed", [-12, -5, 12])
def test_borrowed_samples_change_the_timbre_and_not_the_notes(cached: Path, borrowed: int) -> None:
    """The note of a clarinet from another key's sample peaks where its own does, with other overtones."""
    score = Score((8, 0, 0), 3.0, "pop", 0, "major", 60.0, (4, 4), 0.0, ("acoustic", 0),
                  (Part("lead", "other", "reed", 0, 0.0),), (), (), (), (Note(0, 0.1, 2.8, 72, 0.8),), ())  # fmt: skip
    own = hire(score, banks_of("train"), [71])
    (clarinet,) = own.instruments
    assert clarinet is not None
    other = dataclasses.replace(own, instruments=(dataclasses.replace(clarinet, borrowed=borrowed),))
    levels = [np.abs(np.fft.rfft(render_band(score, band, 16_000)["other"][16_000:32_000])) for band in (own, other)]
    hz = 440 * 2 ** (3 / 12)
    places = [round(hz * k) for k in range(1, 9)]  # the spectrum has a bin for each hertz
    for level in levels:
        near = level[round(hz * 0.97) : round(hz * 1.03)]
        assert abs(1200 * np.log2((round(hz * 0.97) + np.argmax(near)) / hz)) < 30
    overtones = [np.array([level[place - 12 : place + 13].max() for place in places]) for level in levels]
    first, second = (20 * np.log10(level / level.sum()) for level in overtones)
    assert np.abs(first - second).mean() > 3


@with_sounds
def test_kinds_and_borrowed_samples_are_options_of_the_corpus(cached: Path) -> None:
    groups = ",".join(GROUPS)
    plain = SampledCorpus(3, 40, 1.0, groups=groups, kinds="notes,solo")
    assert {plain.clip(i).kind for i in range(40)} == {"notes", "solo"}
    borrowing = SampledCorpus(3, 40, 1.0, groups=groups, kinds="notes,solo", borrowed=0.5)
    players = [one for i in range(40) if (band := borrowing.clip(i).band) for one in band.instruments if one]
    n_borrowed = sum(one.borrowed != 0 for one in players)
    assert 0.2 < n_borrowed / len(players) < 0.8 and all(abs(one.borrowed) <= 12 for one in players)
    for i in range(40):
        assert borrowing.score(i) == plain.score(i), "only who plays is another"
    twice = SampledCorpus(3, 40, 1.0, groups=groups, kinds="solo,notes,solo")
    assert [twice.clip(i).kind for i in range(40)] == [plain.clip(i).kind for i in range(40)]
    for options, wrong in (({"kinds": "noise"}, "kinds are"), ({"borrowed": 1.5}, "a share")):
        with pytest.raises(ValueError, match=wrong):
            SampledCorpus(**options)  # type: ignore[arg-type]
    for name in ("kinds", "groups", "purpose"):  # a recipe may say data_options: {kinds: [notes]}
        with pytest.raises(UsageError, match=f"{name} is text"):
            open_corpus("sampled", 24_000, 24_000, {name: ["notes"]})


@with_sounds
def test_files_and_their_manifest_are_what_prepare_reads(cached: Path, tmp_path: Path) -> None:
    manifest = write_hours(3 / 3600, tmp_path / "music", seconds=1.0, seed=2, sampled=True)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert len(rows) == 3 and all(row["sources"] and row["licence"] in ("MIT", "Apache-2.0") for row in rows)
    music = open_corpus(str(manifest), 24_000, 24_000, {})
    assert set(music.licences) <= {"MIT", "Apache-2.0"} and len(music) == 3
    played_N = SampledCorpus(2, 3, 1.0).read(1)
    assert np.abs(music.read(1, 0, 24_000) - played_N).max() <= 2**-15
    with pytest.raises(UsageError, match="choose another folder"):
        write_hours(3 / 3600, tmp_path / "music", seconds=1.0, seed=2)
    with pytest.raises(UsageError, match="choose another folder"):
        write_hours(3 / 3600, tmp_path / "music", seconds=1.0, seed=2, sampled=True, options={"kinds": "notes"})
    notes = write_hours(3 / 3600, tmp_path / "notes", seconds=1.0, sampled=True, options={"kinds": "notes"})
    assert {json.loads(line)["kind"] for line in notes.read_text().splitlines()} == {"notes"}


@with_sounds
def test_a_run_knows_the_licences_of_what_plays(cached: Path) -> None:
    music = open_corpus("sampled", 24_000, 24_000, {"seconds": 1.0, "n_items": 4, "groups": ",".join(GROUPS)})
    assert set(music.licences) == {"Apache-2.0", "MIT", "public domain"}
    assert strictest(music.licences) == "Apache-2.0"
