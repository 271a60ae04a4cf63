"""Recordings as bytes, written by real encoders, and what our decoders make of them."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import soundfile

from mert.audio.recording import Recording, Source

RATE = 44_100
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def encoded(wave: np.ndarray, rate_hz: int, container: str, subtype: str | None = None) -> bytes:
    """By libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def by_ffmpeg(wave: np.ndarray, rate_hz: int, codec: str, container: str, block: int = 1024, **options: str) -> bytes:
    """By FFmpeg, in packets of `block` samples; the test is skipped without PyAV."""
    av = pytest.importorskip("av")
    wave_NC, file = wave.reshape(len(wave), -1), io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=LAYOUTS[wave_NC.shape[1]])
        stream.codec_context.format = {"tta": "s16", "wavpack": "s16p"}.get(codec, stream.codec_context.format)
        add_sound(output, stream, wave_NC, block)
    return file.getvalue()


def add_sound(output: Any, stream: Any, wave_NC: np.ndarray, block: int = 1024) -> None:
    """Encode a wave into a stream of a container."""
    import av

    kind, layout = stream.codec_context.format.name, stream.layout.name
    scale, dtype = {"flt": (1, "<f4"), "s16": (32_767, "<i2"), "s32": (2**31 - 1, "<i4")}[kind.removesuffix("p")]
    for start in range(0, len(wave_NC), block):
        part_NC = (wave_NC[start : start + block].astype(np.float64) * scale).astype(dtype)
        packed = part_NC.T if kind.endswith("p") else part_NC.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), format=kind, layout=layout)
        frame.sample_rate, frame.pts = stream.rate, start
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def wav(
    samples: bytes, channels: int = 1, bits: int = 16, *, announced: int | None = None, riff: int | None = None,
    front: bytes = b"", behind: bytes = b"",
) -> bytes:  # fmt: skip
    """A WAV file by hand; by default its lengths are right, and count what is in front and behind."""
    width = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 1, channels, RATE, RATE * width, width, bits)
    length = struct.pack("<I", len(samples) if announced is None else announced)
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + front + b"data" + length + samples + behind
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def chunk(name: bytes, length: int) -> bytes:
    """A RIFF chunk of bytes that could be sound."""
    return name + struct.pack("<I", length) + noise(length)


def id3(length: int, announced: int | None = None) -> bytes:
    """An ID3v2 tag with a picture's worth of bytes, and perhaps another length than it announces."""
    size = length if announced is None else announced
    return b"ID3\x04\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + noise(length)


def noise(length: int, seed: int = 0) -> bytes:
    """Random bytes."""
    return np.random.default_rng(seed).bytes(length)


def damaged(data: bytes, at: float, length: int) -> bytes:
    """A file with random bytes from a share of its length on."""
    start = round(at * len(data))
    return data[:start] + noise(length, seed=start) + data[start + length :]


def decoded(source: Source, rate_hz: int = RATE, max_seconds: float | None = None) -> tuple[np.ndarray, Recording]:
    """The samples of a recording, and the recording when it has been read."""
    recording = Recording(source)
    blocks = [np.zeros(0, np.float32), *recording.blocks(rate_hz, max_seconds)]
    return np.concatenate(blocks), recording


def off_by(got: np.ndarray, wanted: np.ndarray) -> float:
    """Rms of the difference, relative to the rms of what was wanted, over the samples both have."""
    n = min(len(got), len(wanted))
    return float(np.sqrt(np.mean((got[:n] - wanted[:n]) ** 2) / np.mean(wanted[:n] ** 2)))
