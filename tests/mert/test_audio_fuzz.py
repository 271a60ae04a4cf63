"""Thousands of damaged recordings: each is decoded to finite samples, or is an AudioError; nothing else happens."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from harness.encoders import RATE, by_ffmpeg, decoded, encoded, id3
from harness.sounds import music

from mert.errors import AudioError

WAVE = np.stack([music(0.4, RATE, seed=1), music(0.4, RATE, seed=2)], axis=1)
PER_KIND, SLOWEST_S, LONGEST_S = 100, 5.0, 600.0
BY_LIBSNDFILE = [
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("AIFF", "PCM_16"), ("AU", "ULAW"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip
BY_FFMPEG = [
    ("aac", "ipod"), ("aac", "adts"), ("aac", "matroska"), ("aac", "mpegts"), ("aac", "flv"), ("alac", "mov"),
    ("flac", "matroska"), ("flac", "ogg"), ("mp2", "avi"), ("mp2", "mp2"), ("ac3", "ac3"), ("tta", "tta"),
    ("wavpack", "wv"), ("pcm_s16le", "asf"), ("pcm_s16be", "mov"),
]  # fmt: skip
BLOCKS = {"flac": 4096, "alac": 4096, "mp2": 1152, "ac3": 1536}


def base(kind: tuple[str, str]) -> bytes:
    if kind in BY_LIBSNDFILE:
        rate_hz = 48_000 if kind[1] == "OPUS" else RATE
        return encoded(WAVE, rate_hz, *kind)
    codec, container = kind
    return by_ffmpeg(WAVE, RATE, codec, container, BLOCKS.get(codec, 1024))


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A file with one of the kinds of damage that files meet."""
    at, n = chance.randrange(len(data)), chance.choice([1, 2, 4, 8, 40, 300, 3000])
    near, few = chance.randrange(min(len(data), 200)), min(n, 8)  # headers are small, and hit as often as all the rest
    damage: list[Callable[[], bytes]] = [
        lambda: data[:at],
        lambda: data[:at] + chance.randbytes(n) + data[at + n :],
        lambda: data[:near] + chance.randbytes(few) + data[near + few :],
        lambda: data[:near] + chance.choice([b"\0", b"\xff"]) * few + data[near + few :],
        lambda: data[:near] + bytes([data[near] ^ 1 << chance.randrange(8)]) + data[near + 1 :],
        lambda: data[:at] + data[at + n :],
        lambda: data[:at] + bytes(n) + data[at:],
        lambda: data + data[near:],
        lambda: data + id3(n),
        lambda: id3(n, chance.choice([n, 0, 5000, 1 << 27])) + data,
    ]
    return chance.choice(damage)() or b"\0"


@pytest.mark.check
@pytest.mark.parametrize("kind", [*BY_LIBSNDFILE, *BY_FFMPEG], ids="-".join)
def test_damaged_files_are_decoded_or_are_audio_errors(kind: tuple[str, str]) -> None:
    whole, chance = base(kind), random.Random("-".join(kind))
    outcomes: Counter[str] = Counter()
    for number in range(PER_KIND):
        data, started = whole, time.process_time()
        for _ in range(chance.randint(1, 3)):
            data = mutated(data, chance)
        try:
            got, recording = decoded(data, 24_000, LONGEST_S)
        except AudioError as error:
            assert error.reason and error.remedy and "\n" not in str(error)
            outcomes["refused"] += 1
        else:
            assert np.isfinite(got).all() and recording.lost_s >= 0
            outcomes["decoded"] += 1
        assert time.process_time() - started < SLOWEST_S, f"mutation {number}"
    assert outcomes["decoded"], outcomes
