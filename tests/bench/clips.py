"""CPU time of a random clip of a recording, decoded from its beginning and from its midst, and of its layout.

44.1 kHz stereo (Opus: 48 kHz) of 3 minutes and of 1 hour, clips of 5 s at 24 kHz mono. `python tests/bench/clips.py`
writes the files to a temporary folder of 1.2 GB first; a quarter of an hour of one core in all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from measuring import machine, named, write

from mert.audio.clips import layout_of, n_samples_at, read_clip
from mert.audio.recording import Recording

RATE_HZ, CLIP_S = 24_000, 5
FORMATS = {
    "WAV": ("WAV", "PCM_16"), "FLAC": ("FLAC", "PCM_16"), "MP3": ("MP3", "MPEG_LAYER_III"),
    "Ogg Vorbis": ("OGG", "VORBIS"), "Opus": ("OGG", "OPUS"), "m4a": ("ipod", "aac"),
}  # fmt: skip


def seconds_of_sound(seconds: int, rate_hz: int) -> Iterator[np.ndarray]:
    """Blocks [N, 2] of a second: notes that decay, and a little noise."""
    random = np.random.default_rng(0)
    t_N = np.arange(rate_hz) / rate_hz
    for _ in range(seconds):
        hz_C = 110 * 2 ** (random.integers(0, 36, 2) / 12)
        tones_NC = np.exp(-3 * t_N)[:, None] * np.sin(2 * np.pi * t_N[:, None] * hz_C)
        yield (0.3 * tones_NC + 0.02 * random.standard_normal((rate_hz, 2))).astype(np.float32)


def make(path: Path, container: str, codec: str, seconds: int) -> None:
    """A file of so many seconds."""
    rate_hz = 48_000 if codec == "OPUS" else 44_100
    if codec != "aac":
        with soundfile.SoundFile(path, "w", rate_hz, 2, format=container, subtype=codec) as sound:
            for block_NC in seconds_of_sound(seconds, rate_hz):
                sound.write(block_NC)
        return
    with av.open(str(path), "w", format=container) as output:
        stream, n = output.add_stream(codec, rate=rate_hz, layout="stereo"), 0
        for block_NC in seconds_of_sound(seconds, rate_hz):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block_NC.T), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, n, Fraction(1, rate_hz)
            n += len(block_NC)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def from_beginning(path: Path, start: int, n: int) -> None:
    """Decode all that is in front of a clip, too."""
    end = 0
    for block_N in Recording(path).blocks(RATE_HZ):
        end += len(block_N)
        if end >= start + n:
            return


def median_ms(function: Callable[[int], object], arguments: list[int]) -> float:
    """Median milliseconds of CPU time."""
    times_s = []
    for argument in arguments:
        started = time.process_time()
        function(argument)
        times_s.append(time.process_time() - started)
    return 1e3 * statistics.median(times_s)


def measured(path: Path, clips: int) -> dict[str, float]:
    """Milliseconds of the layout, of clips from the beginning, and of clips from the midst."""
    layout, n = layout_of(path), CLIP_S * RATE_HZ
    starts = np.random.default_rng(0).integers(0, n_samples_at(layout, RATE_HZ) - n, clips).tolist()
    return {
        "layout": median_ms(lambda _: layout_of(path), [0, 1, 2]),
        "before": median_ms(lambda start: from_beginning(path, start, n), starts[:5]),
        "after": median_ms(lambda start: read_clip(path, layout, RATE_HZ, start, n), starts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", default="180,3600", help="lengths of the files")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("bench_out/clips.json"))
    options = parser.parse_args()
    facts, rows = machine(), []
    print(named(facts), end="\n\n")
    print("| format | length, s | layout, ms | clip before, ms | clip after, ms |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (container, codec) in FORMATS.items():
            for seconds in map(int, options.seconds.split(",")):
                path = Path(folder) / f"{codec}-{seconds}"
                make(path, container, codec, seconds)
                row = measured(path, options.clips)
                path.unlink()
                rows.append({"format": name, "seconds": seconds} | row)
                print(
                    f"| {name} | {seconds} | {row['layout']:.1f} | {row['before']:.0f} | {row['after']:.1f} |",
                    flush=True,
                )
    write({"machine": facts, "rows": rows}, options.out)


if __name__ == "__main__":
    main()
