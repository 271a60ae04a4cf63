"""Sound fonts as instruments: in tune, the same bits in any order and process, and errors that say what to install."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from harness.scores import with_banks

from mert.errors import MertError
from mir_benchmarks.synth import banks
from mir_benchmarks.synth.banks import BANKS, Stroke, bank_rate, is_installed, play
from mir_benchmarks.synth.programs import DRUM_KITS, MELODIC, octaves_into, range_of
from mir_benchmarks.synth.tones import hz_of

RATE_HZ = 24_000
CLIPS = {
    "piano": ("csound", 0, [Stroke(0.1 * i, 0.1 * i + 0.5, 60 + i, 90) for i in range(5)], False),
    "strings": ("csound", 48, [Stroke(0.0, 2.0, 55 + 4 * i, 70) for i in range(4)], False),
    "drums": ("csound", 0, [Stroke(0.05 * i, 0.05 * i + 0.04, 36 + i % 8, 100) for i in range(20)], True),
    "bent": ("csound", 61, [Stroke(0.2, 0.9, 67, 127)], False),
}


def digest(name: str) -> str:
    bank, program, strokes, drums = CLIPS[name]
    wave_N = play(bank, program, strokes, 30_000, RATE_HZ, drums=drums, cents=17.0 if name == "bent" else 0)
    return hashlib.sha256(wave_N.tobytes()).hexdigest()


def peak_cents(wave_N: np.ndarray, rate_hz: int, hz: float) -> float:
    """Where the spectrum peaks about `hz`, by cents away from it."""
    level = np.abs(np.fft.rfft(wave_N * np.hanning(len(wave_N)), 1 << 18))
    cents = np.arange(-120, 121, 2)
    places = np.round(hz * 2 ** (cents / 1200) * (1 << 18) / rate_hz).astype(int)
    return float(cents[np.argmax(level[places])])


@with_banks
def test_the_same_bits_in_any_order() -> None:
    forwards = {name: digest(name) for name in CLIPS}
    backwards = {name: digest(name) for name in reversed(CLIPS)}
    assert forwards == backwards and len(set(forwards.values())) == len(CLIPS)


@with_banks
def test_the_same_bits_in_another_process_and_from_threads() -> None:
    code = "import sys; sys.path.append('..'); import test_synth_banks as t;"  # beside it, the harness
    code += "print(*(t.digest(name) for name in reversed(t.CLIPS)))"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    elsewhere = done.stdout.split()
    with ThreadPoolExecutor(4) as pool:
        here = list(pool.map(digest, [*CLIPS] * 3))
    assert here == [*reversed(elsewhere)] * 3


@with_banks
@pytest.mark.parametrize("bank", BANKS)
def test_programs_are_in_tune(bank: str) -> None:
    """An A that a program can play peaks within half a semitone of A, and is neither too loud nor too soft."""
    rate_hz = 16_000
    for program in MELODIC:
        key = 69 + octaves_into(range_of(program), [69])
        wave_N = play(bank, program, [Stroke(0.1, 1.1, key, 96)], 2 * rate_hz, rate_hz)
        assert len(wave_N) == 2 * rate_hz and np.isfinite(wave_N).all()
        assert np.abs(wave_N[: round(0.09 * rate_hz)]).max() < 1e-4, "nothing sounds before the stroke"
        assert 1e-3 < np.abs(wave_N).max() < 1.5, program
        assert abs(peak_cents(wave_N[rate_hz // 5 : rate_hz], rate_hz, hz_of(key))) <= 50, program


@with_banks
@pytest.mark.check
@pytest.mark.parametrize("bank", BANKS)
def test_every_key_of_every_range_sounds(bank: str) -> None:
    """Softly played, one after another."""
    rate_hz, step_s = 16_000, 0.4
    for program in MELODIC:
        low, high = range_of(program)
        strokes = [Stroke(step_s * i, step_s * i + 0.25, key, 25) for i, key in enumerate(range(low, high + 1))]
        wave_N = play(bank, program, strokes, round(step_s * len(strokes) * rate_hz), rate_hz)
        loudest = np.abs(wave_N.reshape(len(strokes), -1)[:, :4_800]).max(axis=1)
        assert loudest.min() > 1e-4, (program, low + int(np.argmin(loudest)))


@with_banks
@pytest.mark.parametrize("bank", BANKS)
def test_kits_have_the_pieces_of_ours(bank: str) -> None:
    for kit in DRUM_KITS["acoustic"]:
        for key in (36, 38, 42, 49):
            wave_N = play(bank, kit, [Stroke(0.0, 0.1, key, 110)], 8_000, 16_000, drums=True)
            assert np.abs(wave_N).max() > 1e-3, (kit, key)
    with pytest.raises(ValueError, match="no program 99 of drums"):
        play(bank, 99, [], 64, 16_000, drums=True)


@with_banks
def test_strokes_start_when_they_should_and_repeat() -> None:
    """A key that is struck again while it sounds is released first; onsets lie within a block of 64 frames."""
    high_hz = bank_rate(RATE_HZ)
    once = play("csound", 13, [Stroke(0.5, 0.6, 72, 127)], RATE_HZ, RATE_HZ)
    onset = int(np.argmax(np.abs(once) > 0.05 * np.abs(once).max())) / RATE_HZ
    assert abs(onset - 0.5) < 64 / high_hz + 0.004
    held = [Stroke(0.0, 2.0, 72, 100), Stroke(0.5, 1.0, 72, 100)]
    cut = [Stroke(0.0, 0.5, 72, 100), Stroke(0.5, 1.0, 72, 100)]
    assert np.array_equal(play("csound", 48, held, RATE_HZ, RATE_HZ), play("csound", 48, cut, RATE_HZ, RATE_HZ))


def test_a_missing_bank_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fluidsynth", exc_type=ImportError)
    monkeypatch.setattr(banks, "FOLDERS", (tmp_path,))
    monkeypatch.setenv(banks.FOLDER_VARIABLE, str(tmp_path / "mine"))
    with pytest.raises(MertError, match=r"apt-get install fluidsynth .*fluid-soundfont-gm.* csound-soundfont"):
        banks.require("fluid")
    assert not is_installed("fluid")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    banks.fluidsynth.cache_clear()
    monkeypatch.setitem(sys.modules, "fluidsynth", None)
    try:
        with pytest.raises(MertError, match=r"fluidsynth is not installed; .*\[sounds\]"):
            banks.require()
        assert not is_installed()
    finally:
        banks.fluidsynth.cache_clear()


def test_a_missing_library_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyfluidsynth raises an ImportError of its own where it finds no libfluidsynth."""
    (tmp_path / "fluidsynth.py").write_text("raise ImportError('no library')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fluidsynth", raising=False)
    banks.fluidsynth.cache_clear()
    try:
        with pytest.raises(MertError, match="libfluidsynth: is not installed; apt-get install fluidsynth"):
            banks.require()
    finally:
        banks.fluidsynth.cache_clear()


@with_banks
def test_a_file_that_is_no_sound_font_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / BANKS["fluid"].file).write_bytes(b"no sound font")
    monkeypatch.setenv(banks.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(MertError, match=r"FluidR3_GM.sf2: is no sound font that fluidsynth reads"):
        banks.Player("fluid", 24_000)


def test_no_bank_is_for_training_and_for_tests() -> None:
    assert set(banks.banks_of("train")) | set(banks.banks_of("test")) == set(BANKS)
    assert not {BANKS[name].file for name in banks.banks_of("train")} & {
        BANKS[name].file for name in banks.banks_of("test")
    }
