"""How far an embedding moves under changes of the sound: level, offset, noise, MP3, speed.

Shapes: N samples, n segments, L layers, P width of a pooled segment. Waves are mono, at the rate of the encoder: what
lies above half of it is gone before any change. Full scale is 1, and nothing is clipped.
"""

import io
import math
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import soundfile
import soxr

from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.invariance.segments import CLEAN, Change, Segments, around_mean, label, measure, over_recordings
from mir_benchmarks.report.tables import Table, with_interval

MP3_HZ = 44_100
MP3_MAX, MP3_MIN = 320, 32  # kbit/s at this rate: libsndfile's compression levels 0 and 1
COSINE = (
    "Cosine between clean and changed segments, averaged over time, as seen from the mean of all clean ones (as seen "
    "from zero any two sounds are near 1). Full scale is 1; noise is white up to half the model's sample rate; MP3 is "
    "mono at 44.1 kHz, of constant bit rate, aligned; speed/pitch is resampling, higher and shorter at once."
)
EQUAL = 1e-9  # cosines nearer than this are equal
UNBOUNDED = (-math.inf, math.inf)  # cosines of 1 are exact, not as if counted


def gain(wave_N: np.ndarray, rate_hz: int, random: np.random.Generator, db: float) -> np.ndarray:
    """Louder or softer."""
    return wave_N * 10 ** (db / 20)


def offset(wave_N: np.ndarray, rate_hz: int, random: np.random.Generator, level: float) -> np.ndarray:
    """A constant added, as a fraction of full scale."""
    return wave_N + level


def noise(wave_N: np.ndarray, rate_hz: int, random: np.random.Generator, snr_db: float) -> np.ndarray:
    """White noise added, at a ratio to the power of the segment."""
    rms = np.sqrt(np.mean(np.square(wave_N, dtype=np.float64)))
    return wave_N + rms * 10 ** (-snr_db / 20) * random.standard_normal(len(wave_N))


def speed(wave_N: np.ndarray, rate_hz: int, random: np.random.Generator, semitones: float) -> np.ndarray:
    """Played faster, like a tape: higher by `semitones`, and shorter."""
    return np.asarray(soxr.resample(wave_N, rate_hz * 2 ** (semitones / 12), rate_hz))


def mp3(wave_N: np.ndarray, rate_hz: int, random: np.random.Generator, kbps: int) -> np.ndarray:
    """Encoded and decoded as MP3 of a constant bit rate, mono at 44.1 kHz, aligned with the original."""
    decoded_N = mp3_decoded(mp3_encoded(soxr.resample(wave_N, rate_hz, MP3_HZ), kbps))[mp3_delay(kbps) :]
    back_N = np.asarray(soxr.resample(decoded_N, MP3_HZ, rate_hz))[: len(wave_N)]
    return np.pad(back_N, (0, len(wave_N) - len(back_N)))


def mp3_encoded(wave_N: np.ndarray, kbps: int) -> bytes:
    """An MP3 file of a wave at 44.1 kHz."""
    file = io.BytesIO()
    level = (MP3_MAX - kbps) / (MP3_MAX - MP3_MIN)
    soundfile.write(file, wave_N, MP3_HZ, format="MP3", bitrate_mode="CONSTANT", compression_level=level)
    return file.getvalue()


def mp3_decoded(file: bytes) -> np.ndarray:
    """The samples of an MP3 file."""
    return np.asarray(soundfile.read(io.BytesIO(file), dtype="float32")[0])


@cache
def mp3_delay(kbps: int) -> int:
    """Delay of a round trip in samples, by cross-correlation: 0 where the decoder removes the encoder's padding."""
    noise_N = 0.1 * np.random.default_rng(0).standard_normal(MP3_HZ)
    decoded_N = mp3_decoded(mp3_encoded(noise_N, kbps))
    size = len(noise_N) + len(decoded_N)
    lags = np.fft.irfft(np.fft.rfft(decoded_N, size) * np.fft.rfft(noise_N, size).conj(), size)
    return int(lags[: len(decoded_N)].argmax())


CHANGES: dict[str, Change] = {
    "gain -6 dB": partial(gain, db=-6),
    "gain -20 dB": partial(gain, db=-20),
    "gain -40 dB": partial(gain, db=-40),
    "DC offset of 0.01 of full scale": partial(offset, level=0.01),
    "white noise, SNR 30 dB": partial(noise, snr_db=30),
    "white noise, SNR 20 dB": partial(noise, snr_db=20),
    "white noise, SNR 10 dB": partial(noise, snr_db=10),
    "MP3, 128 kbit/s": partial(mp3, kbps=128),
    "MP3, 64 kbit/s": partial(mp3, kbps=64),
    "speed/pitch +1 semitone": partial(speed, semitones=1),
    "speed/pitch +12 semitones": partial(speed, semitones=12),
}


def moved(segments: Segments, layer_names: Sequence[str]) -> dict[str, Any]:
    """How far the segments move under each change in each layer."""
    if len(segments.owner_n) < 2:
        raise TaskError("AUDIO", f"{len(segments.owner_n)} segments", "give recordings with at least two")
    changes = {change: by_layer(segments, change, layer_names) for change in CHANGES}
    return {"chance": 100 / len(segments.owner_n), "changes": changes}


measure_robustness = partial(measure, "robustness", CHANGES, False, moved)  # the JSON of `mert bench robustness`


def by_layer(segments: Segments, change: str, layer_names: Sequence[str]) -> dict[str, Any]:
    """Cosine of clean and changed segments, and percent of segments retrieved, in each layer."""
    layers = {}
    for i, layer in enumerate(layer_names):
        clean_nP = segments.vectors[CLEAN][:, i]
        seen_nP = around_mean(segments.vectors[change][:, i], clean_nP)
        clean_nP = around_mean(clean_nP, clean_nP)
        layers[layer] = {
            "cosine": over_recordings((seen_nP * clean_nP).sum(axis=1), segments.owner_n, UNBOUNDED),
            "retrieval": over_recordings(100 * retrieved(seen_nP, clean_nP), segments.owner_n, (0, 100)),
        }
    return layers


def retrieved(changed_nP: np.ndarray, clean_nP: np.ndarray) -> np.ndarray:
    """1 where the clean segment nearest to a changed one is its own source, 1/k where it is one of k as near, else 0.

    >>> retrieved(np.eye(3), np.eye(3)), retrieved(np.zeros((2, 3)), np.eye(3)[:2])
    (array([1., 1., 1.]), array([0.5, 0.5]))
    """
    shares = []
    for i, changed_P in enumerate(changed_nP):
        ahead_n = clean_nP @ changed_P - changed_P @ clean_nP[i]
        shares.append(0.0 if ahead_n.max() > EQUAL else 1 / (ahead_n > -EQUAL).sum())
    return np.array(shares)


def robustness_tables(measured: Mapping[str, Any]) -> tuple[Table, Table]:
    """Cosines and percentages of retrieved segments at the layer of each model: rows are changes, columns models."""
    models = measured["models"]
    columns = ("change", *map(label, models))

    def rows(what: str, digits: int) -> list[tuple[str, ...]]:
        return [
            (change, *(with_interval(model["changes"][change][model["layer"]][what], digits) for model in models))
            for change in models[0]["changes"]
        ]

    extent = (
        f"{models[0]['n_segments']} segments of {measured['segment_s']:g} s (shorter recordings whole) of "
        f"{models[0]['n_recordings']} recordings, each counted alike; 95 % intervals over recordings."
    )
    retrieval = "How often the clean segment nearest to a changed one is its own source; "
    retrieval += f"{models[0]['chance']:.1f} % by chance."
    return (
        Table("Cosine under changes of the sound", columns, rows("cosine", 3), f"{COSINE} {extent}"),
        Table("Found again, %", columns, rows("retrieval", 1), f"{retrieval} {extent}"),
    )
