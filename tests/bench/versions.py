"""How near copies of a clip come to it, and other clips, in `mert similar`: `python versions.py [MODEL...]`.

700 clips of 4 s: half composed for synthetic instruments, half played by sampled ones that no model here was made from;
copies of the first 200 as MP3, quieter, and without their last fifth. Similarities are cosines around the mean of all
clips, of the recommended layer.
"""

import io
import sys
from collections.abc import Callable

import numpy as np
import soundfile

import mert
from mert.collection.index import VERSION_FROM
from mir_benchmarks.synth.corpus import SynthCorpus
from mir_benchmarks.synth.sampled import SampledCorpus

RATE_HZ, SECONDS, N_CLIPS, N_COPIED = 24_000, 4.0, 700, 200


def clips() -> list[np.ndarray]:
    """Clips of both corpora in turns."""
    composed = SynthCorpus(seed=9, n_items=N_CLIPS, seconds=SECONDS, rate_hz=RATE_HZ, purpose="bench")
    played = SampledCorpus(seed=9, n_items=N_CLIPS, seconds=SECONDS, rate_hz=RATE_HZ, purpose="test")
    return [(played if i % 2 else composed).read(i) for i in range(N_CLIPS)]


def as_mp3(wave_N: np.ndarray) -> np.ndarray:
    """Through an MP3 file of about 64 kbit/s."""
    file = io.BytesIO()
    soundfile.write(file, wave_N, RATE_HZ, format="MP3")
    return np.asarray(soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")[0])


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "MP3": as_mp3,
    "10 dB softer": lambda wave_N: wave_N * np.float32(10**-0.5),
    "40 dB softer, 16 bits": lambda wave_N: np.round(wave_N * 327.67).astype(np.float32) / 32_768,
    "without the last fifth": lambda wave_N: wave_N[: len(wave_N) * 4 // 5],
}


def directions(m: mert.Embedder, waves: list[np.ndarray], centre_D: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Unit vectors [B, D] around a centre [D] (default: their mean), and the centre."""
    x_BD = m.encode(waves, sr=RATE_HZ)
    centre_D = x_BD.mean(0) if centre_D is None else centre_D
    x_BD = x_BD - centre_D
    return x_BD / np.linalg.norm(x_BD, axis=1, keepdims=True), centre_D


def main(*names: str) -> None:
    """Print a table for each model."""
    waves = clips()
    for name in names:
        m = mert.load(name)
        x_BD, centre_D = directions(m, waves)
        print(f"\n| {name}, {m.recommended_layer} | similarity >= {VERSION_FROM}, % | own clip is the nearest, % |")
        print("|---|---|---|")
        for copy, change in COPIES.items():
            near_CB = directions(m, [change(wave_N) for wave_N in waves[:N_COPIED]], centre_D)[0] @ x_BD.T
            own = near_CB[np.arange(N_COPIED), np.arange(N_COPIED)]
            found = near_CB.argmax(1) == np.arange(N_COPIED)
            print(f"| {copy} | {100 * np.mean(own >= VERSION_FROM):.1f} | {100 * found.mean():.1f} |")
        others_BB = x_BD @ x_BD.T - 2 * np.eye(N_CLIPS)
        print(f"| the nearest other clip | {100 * np.mean(others_BB.max(1) >= VERSION_FROM):.1f} | |")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["mert-nano"]))
