"""Sound fonts, played in process by fluidsynth: the same samples whatever was played before, and in any process.

Shapes: N samples, C = 2 channels.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from mert.errors import MertError, need

FOLDERS = (Path("/usr/share/sounds/sf2"), Path("/usr/local/share/sounds/sf2"))
FOLDER_VARIABLE = "MERT_SOUND_FONTS"
BLOCK = 64  # frames that fluidsynth computes at once; strokes fall on their limits
SAMPLES_UP_TO_HZ = 22_050  # sound fonts are sampled at 44.1 kHz
BEND_CENTS, BEND_CENTRE, BEND_MOST = 200, 8192, 16_383
GAIN = 0.5
PUBLIC_DOMAIN = "public domain"
SETTINGS = {"synth.reverb.active": 0, "synth.chorus.active": 0, "synth.lock-memory": 0, "synth.polyphony": 128,
            "synth.midi-channels": 16}  # fmt: skip
WARNING = 2  # fluidsynth's level
LOADING = threading.Lock()


@dataclass(frozen=True)
class Bank:
    """A sound font: its file, the Debian package that holds it, its licence, and what it may be used for."""

    name: str
    title: str
    file: str
    package: str
    licence: str
    role: str  # "train" or "test": never both


BANKS = {
    bank.name: bank
    for bank in (
        Bank("fluid", "FluidR3 GM", "FluidR3_GM.sf2", "fluid-soundfont-gm", "MIT", "train"),
        Bank("musescore", "MuseScore General", "MuseScore_General_Full.sf2", "musescore-general-soundfont-lossless",
             "MIT", "train"),
        Bank("csound", "Csound GM bank", "sf_GMbank.sf2", "csound-soundfont", PUBLIC_DOMAIN, "test"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Stroke:
    """A key that is pressed at `onset_s`, and released at `end_s`; `velocity` from 1 to 127."""

    onset_s: float
    end_s: float
    key: int
    velocity: int


def banks_of(role: str) -> tuple[str, ...]:
    """The names of the banks of a role.

    >>> banks_of("train"), banks_of("test")
    (('fluid', 'musescore'), ('csound',))
    """
    return tuple(name for name, bank in BANKS.items() if bank.role == role)


def folders() -> tuple[Path, ...]:
    """Where banks are looked for: the folder that $MERT_SOUND_FONTS names, then Debian's."""
    own = os.environ.get(FOLDER_VARIABLE)
    return (Path(own), *FOLDERS) if own else FOLDERS


def is_installed(*names: str) -> bool:
    """Whether fluidsynth, its Python package and these banks are there."""
    try:
        fluidsynth()
        return all(bank_path(name).exists() for name in names)
    except MertError:
        return False


def require(*names: str) -> None:
    """MertError that names the Debian packages to install, if fluidsynth or one of these banks is missing."""
    fluidsynth()
    for name in names:
        bank_path(name)


def bank_path(name: str) -> Path:
    """The file of a bank; MertError if it is in none of the folders."""
    bank = BANKS[name]
    for folder in folders():
        if (folder / bank.file).exists():
            return folder / bank.file
    raise MertError(bank.file, f"no sound font of this name in {' or '.join(map(str, folders()))}", how_to_install())


def how_to_install() -> str:
    packages = " ".join(bank.package for bank in BANKS.values())
    return f"apt-get install fluidsynth {packages} (or set ${FOLDER_VARIABLE} to the folder of the banks)"


@cache
def fluidsynth() -> Any:
    """pyfluidsynth, with the functions that it does not declare; MertError if it or the library is missing."""
    try:
        with redirect_stdout(sys.stderr):  # where $CI is set, it prints as it is imported
            module = need("fluidsynth", "sounds", "sampled music")
    except ImportError:  # pyfluidsynth without libfluidsynth
        raise MertError("libfluidsynth", "is not installed", how_to_install()) from None
    library, pointer, number = module._fl, ctypes.c_void_p, ctypes.c_int
    library.fluid_synth_write_float.argtypes = [pointer, number, *[pointer, number, number] * 2]
    library.fluid_synth_add_sfont.argtypes = [pointer, pointer]
    library.fluid_synth_remove_sfont.argtypes = [pointer, pointer]
    library.fluid_synth_pitch_wheel_sens.argtypes = [pointer, number, number]
    library.fluid_set_log_function.argtypes = [number, pointer, pointer]
    for level in (WARNING, WARNING + 1):  # about channels that nobody uses
        library.fluid_set_log_function(level, None, None)
    return module


def bank_rate(rate_hz: int) -> int:
    """The rate to play a bank at for `rate_hz`: so high that what folds at its Nyquist falls above that of `rate_hz`.

    >>> bank_rate(16_000), bank_rate(24_000), bank_rate(44_100)
    (32000, 36000, 44100)
    """
    return int(rate_hz * math.ceil(2 * (rate_hz / 2 + SAMPLES_UP_TO_HZ - 60) / rate_hz) / 2)


class Player:
    """One bank, loaded once, at one rate. Threads play one after another."""

    def __init__(self, bank: str, rate_hz: int) -> None:
        self.rate_hz, self._lock = rate_hz, threading.Lock()
        self._library, path = fluidsynth(), bank_path(bank)
        self._settings = self._library.new_fluid_settings()
        for name, value in SETTINGS.items():
            self._library.fluid_settings_setint(self._settings, name.encode(), value)
        self._library.fluid_settings_setnum(self._settings, b"synth.sample-rate", float(rate_hz))
        self._library.fluid_settings_setnum(self._settings, b"synth.gain", GAIN)
        loader = self._library.new_fluid_synth(self._settings)
        number = self._library.fluid_synth_sfload(loader, str(path).encode(), 0)
        if number < 0:
            raise MertError(path, "is no sound font that fluidsynth reads", "install its Debian package again")
        self._font = self._library.fluid_synth_get_sfont_by_id(loader, number)
        self._library._fl.fluid_synth_remove_sfont(loader, self._font)  # so that it outlives the synthesiser
        self._library.delete_fluid_synth(loader)

    def programs(self, bank: int = 0) -> dict[int, str]:
        """Programs and their names; those of bank 128 are drum kits."""
        presets = {i: self._library.fluid_sfont_get_preset(self._font, bank, i) for i in range(128)}
        return {i: self._library.fluid_preset_get_name(p).decode("latin-1") for i, p in presets.items() if p}

    def play(
        self, program: int, strokes: Iterable[Stroke], n: int, *, drums: bool = False, cents: float = 0
    ) -> np.ndarray:
        """`n` frames of one instrument or kit, tuned by `cents`, float32 [N, 2]; ValueError if the bank lacks it."""
        events = self._events(strokes)
        wave_NC = np.zeros((-(-n // BLOCK) * BLOCK, 2), np.float32)
        channel, bank = (9, 128) if drums else (0, 0)
        wheel_cents = max(BEND_CENTS, 100 * math.ceil(abs(cents) / 100))
        bend = min(BEND_MOST, BEND_CENTRE + round(cents / wheel_cents * BEND_CENTRE))
        with self._lock, self._synth() as (synth, font):
            if self._library.fluid_synth_program_select(synth, channel, font, bank, program) != 0:
                raise ValueError(f"the bank has no program {program}" + " of drums" * drums)
            self._library._fl.fluid_synth_pitch_wheel_sens(synth, channel, wheel_cents // 100)
            self._library.fluid_synth_pitch_bend(synth, channel, bend)
            at = 0
            for block, velocity, key in [*events, (len(wave_NC), 0, 0)]:
                until = min(block * BLOCK, len(wave_NC))
                if until > at:
                    left = wave_NC[at:].ctypes.data
                    self._library._fl.fluid_synth_write_float(synth, until - at, left, 0, 2, left, 1, 2)
                    at = until
                if velocity:
                    self._library.fluid_synth_noteon(synth, channel, key, velocity)
                else:
                    self._library.fluid_synth_noteoff(synth, channel, key)
        return wave_NC[:n]

    @contextmanager
    def _synth(self) -> Iterator[tuple[int, int]]:
        """A new synthesiser, and the number of the bank in it.

        After a reset of one that played, voices differ in their last bits by what they played before.
        """
        synth = self._library.new_fluid_synth(self._settings)
        try:
            yield synth, self._library._fl.fluid_synth_add_sfont(synth, self._font)
        finally:
            self._library._fl.fluid_synth_remove_sfont(synth, self._font)
            self._library.delete_fluid_synth(synth)

    def _events(self, strokes: Iterable[Stroke]) -> list[tuple[int, int, int]]:
        """(block, velocity, key) in order, velocity 0 for a release; a key is released before it is pressed again."""
        presses: dict[int, list[tuple[int, int, int]]] = {}
        for stroke in strokes:
            start = self._block(stroke.onset_s)
            end = max(start + 1, self._block(stroke.end_s))
            presses.setdefault(stroke.key, []).append((start, end, stroke.velocity))
        events = []
        for key, of_key in presses.items():
            of_key.sort()
            following = [start for start, _, _ in of_key[1:]]
            for (start, end, velocity), next_start in itertools.zip_longest(of_key, following):
                if next_start != start:  # of two presses at once the harder one counts
                    end = end if next_start is None else min(end, next_start)
                    events += [(start, velocity, key), (end, 0, key)]
        return sorted(events)

    def _block(self, seconds: float) -> int:
        return max(0, round(seconds * self.rate_hz / BLOCK))


@lru_cache(maxsize=8)
def player_of_process(bank: str, rate_hz: int, process: int) -> Player:
    return Player(bank, rate_hz)


def player(bank: str, rate_hz: int) -> Player:
    """The one player of this bank and rate in this process: loading takes up to a second."""
    with LOADING:  # so that threads do not load it twice
        return player_of_process(bank, rate_hz, os.getpid())


def play(
    bank: str, program: int, strokes: Iterable[Stroke], n: int, rate_hz: int, *, drums: bool = False, cents: float = 0,
    mono: bool = True,
) -> np.ndarray:  # fmt: skip
    """`n` samples of a program (of a drum kit with `drums`), float32 [N], or [N, 2] if not `mono`; dry.

    MertError if the bank or fluidsynth is not installed.
    """
    high_hz = bank_rate(rate_hz)
    n_high = -(-n * high_hz // rate_hz)
    wave_NC = player(bank, high_hz).play(program, strokes, n_high, drums=drums, cents=cents)
    wave = wave_NC.mean(axis=1) if mono else wave_NC
    if high_hz != rate_hz:
        wave = soxr.resample(wave, high_hz, rate_hz, quality="HQ")
    return wave[:n] if len(wave) >= n else np.pad(wave, ((0, n - len(wave)), *[(0, 0)] * (wave.ndim - 1)))
