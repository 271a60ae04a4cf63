"""Recordings in: real files of many formats, dishonest headers, damage, resampling, and what is refused."""

from __future__ import annotations

import gc
import io
import os
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from harness.encoders import RATE, by_ffmpeg, decoded, encoded, off_by
from harness.sounds import music
from hypothesis import given, settings
from hypothesis import strategies as st

from mert.audio.recording import ArrayRecording, Recording, as_float, resampled
from mert.embedding.embedder import StreamRecording
from mert.errors import AudioError

WAVE = music(3.0, RATE, seed=5)


def vbr_mp3(wave: np.ndarray, rate_hz: int) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate_hz, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.2
    ) as sound:
        sound.write(wave)
    return file.getvalue()


def heard(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    return np.concatenate(list(ArrayRecording(samples, from_hz).blocks(to_hz)))


def tone(hz: float, rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("container", "subtype", "rate_hz", "tolerance"),
    [
        ("WAV", "PCM_U8", RATE, 0.1),
        ("WAV", "PCM_16", RATE, 1e-3),
        ("WAV", "PCM_24", RATE, 1e-5),
        ("WAV", "PCM_32", RATE, 1e-6),
        ("WAV", "FLOAT", RATE, 0.0),
        ("WAV", "DOUBLE", RATE, 0.0),
        ("WAV", "ULAW", RATE, 0.05),
        ("WAVEX", "PCM_16", RATE, 1e-3),
        ("RF64", "PCM_16", RATE, 1e-3),
        ("W64", "PCM_16", RATE, 1e-3),
        ("CAF", "PCM_16", RATE, 1e-3),
        ("AU", "PCM_16", RATE, 1e-3),
        ("AIFF", "PCM_16", RATE, 1e-3),
        ("FLAC", "PCM_24", RATE, 1e-5),
        ("OGG", "VORBIS", RATE, 0.1),
        ("OGG", "OPUS", 48_000, 0.15),
        ("MP3", "MPEG_LAYER_III", RATE, 0.1),
    ],
)
def test_every_format_gives_the_sound_that_was_written(
    container: str, subtype: str, rate_hz: int, tolerance: float
) -> None:
    wave = music(2.0, rate_hz, seed=1)
    got, recording = decoded(encoded(wave, rate_hz, container, subtype), rate_hz)
    assert abs(len(got) - len(wave)) <= 2304 and off_by(got, wave) <= tolerance
    if container not in ("OGG", "MP3"):
        assert len(got) == len(wave)
    assert recording.warnings == [] and not recording.silent
    assert recording.seconds == len(got) / rate_hz
    assert recording.claimed_seconds() == pytest.approx(2.0, abs=0.06)


def test_192_khz_in_8_channels_is_the_mean_of_the_channels_at_the_rate_asked_for(write: Callable[..., Path]) -> None:
    gains = np.linspace(0.3, 1.0, 8)
    path = write("a.wav", tone(1000, 192_000)[:, None] * gains, 192_000, subtype="FLOAT")
    got, recording = decoded(path, 24_000)
    wanted = tone(1000, 24_000) * gains.mean()
    assert len(got) == 24_000 and recording.seconds == 1.0
    assert np.abs(got - wanted)[500:-500].max() < 1e-4


def test_stereo_with_one_silent_side_is_half_the_mono_sound_and_as_long(write: Callable[..., Path]) -> None:
    wave = music(0.5, RATE)
    stereo = write("s.wav", np.stack([wave, np.zeros_like(wave)], axis=1), RATE, subtype="FLOAT")
    mono = write("m.wav", 0.5 * wave, RATE, subtype="FLOAT")
    np.testing.assert_allclose(decoded(stereo)[0], decoded(mono)[0], atol=1e-7)


def test_a_path_bytes_and_files_give_the_same_samples(write: Callable[..., Path]) -> None:
    path = write("a.flac", WAVE, RATE)
    wanted, data = decoded(path)[0], path.read_bytes()
    with path.open("rb") as file:
        for source in (str(path), data, bytearray(data), io.BytesIO(data), file):
            np.testing.assert_array_equal(decoded(source)[0], wanted)
        assert not file.closed


def test_a_pipe_is_read_and_leaves_no_open_file_behind() -> None:
    data = encoded(WAVE[:8000], RATE, "FLAC")
    assert len(data) < 1 << 16  # what a pipe holds without a reader
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as sink:
        sink.write(data)
    with os.fdopen(reader, "rb") as pipe:
        np.testing.assert_array_equal(decoded(pipe)[0], decoded(data)[0])
        gc.collect()  # a file that is forgotten and not closed is a ResourceWarning
        assert not pipe.closed


def test_a_file_is_read_from_its_start_wherever_it_was_left() -> None:
    file = io.BytesIO(encoded(WAVE, RATE, "FLAC"))
    file.seek(1000)
    first = decoded(file)[0]
    np.testing.assert_array_equal(first, decoded(file)[0])


def test_the_name_is_the_path_or_says_what_was_given(write: Callable[..., Path]) -> None:
    path = write("é ü\n.wav", WAVE, RATE)
    assert Recording(path).name == str(path) and len(decoded(path)[0]) == len(WAVE)
    assert Recording(b"abc").name == "3 bytes"


def test_m4a_is_decoded_by_pyav(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(m4a())
    got, recording = decoded(path)
    at = int(np.correlate(got[:8000], WAVE[:4000]).argmax())  # AAC starts with up to two frames of priming
    assert at <= 2 * 1024 and off_by(got[at:], WAVE) < 0.1
    assert recording.claimed_seconds() == pytest.approx(3.0, abs=0.1) and recording.warnings == []


def test_m4a_without_pyav_names_the_way_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first bytes of any .m4a: enough for libsndfile to refuse it, in environments that cannot write one.
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x1cftypM4A \0\0\2\0M4A isomiso2" + bytes(4000))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r'a\.m4a: .*; .*pip install -e "\.\[codecs\]"') as caught:
        decoded(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_m4a_is_an_error_or_warned_about() -> None:
    data = m4a()
    try:
        got, recording = decoded(data[: len(data) // 2])
    except AudioError:
        return  # the index of an m4a is often its last part
    assert len(got) < 2 * RATE and recording.warnings


def m4a() -> bytes:
    return by_ffmpeg(WAVE, RATE, "aac", "ipod")


# ------------------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000])
def test_a_tone_keeps_its_frequency_level_and_time_at_24_khz(rate_hz: int) -> None:
    got = heard(tone(1234.5, rate_hz), rate_hz, 24_000)
    assert len(got) == 24_000
    assert np.abs(got - tone(1234.5, 24_000))[1000:-1000].max() < 2e-4


@pytest.mark.parametrize("rate_hz", [32_000, 44_100, 48_000, 96_000, 192_000])
def test_a_tone_above_12_khz_vanishes_at_24_khz(rate_hz: int) -> None:
    for hz in (13_000.0, 15_000.0):
        assert np.abs(heard(tone(hz, rate_hz), rate_hz, 24_000)[1000:-1000]).max() < 0.5e-4


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 5000), max_size=12),
    rate_hz=st.sampled_from([8_000, 22_050, 44_100, 96_000]),
)
def test_resampling_does_not_depend_on_how_the_sound_was_cut_into_blocks(cuts: list[int], rate_hz: int) -> None:
    wave = music(5000 / rate_hz, rate_hz)
    parts = np.split(wave, sorted(cuts))
    whole = np.concatenate(list(resampled(iter([wave]), rate_hz, 24_000)))
    np.testing.assert_array_equal(np.concatenate(list(resampled(iter(parts), rate_hz, 24_000))), whole)


def test_samples_at_the_rate_asked_for_are_not_touched() -> None:
    wave = music(0.4)
    np.testing.assert_array_equal(heard(wave, 24_000, 24_000), wave)


@pytest.mark.parametrize("strided", [WAVE[::2], WAVE[::-1], np.stack([WAVE, WAVE], axis=1)[:, 1]])
def test_views_that_are_not_contiguous_are_resampled_like_their_copies(strided: np.ndarray) -> None:
    np.testing.assert_array_equal(heard(strided, RATE, 24_000), heard(strided.copy(), RATE, 24_000))


# ----------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint8, np.uint16])
def test_integers_are_read_at_full_scale(dtype: type) -> None:
    info = np.iinfo(dtype)
    got = heard(np.array([info.min, (int(info.min) + int(info.max) + 1) // 2, info.max] * 10, dtype), 24_000, 24_000)
    assert got.dtype == np.float32 and got[0] == -1.0 and got[1] == 0.0
    assert 1 - 2.0 ** (1 - 8 * np.dtype(dtype).itemsize) == pytest.approx(got[2], abs=1e-7)


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("as_type", [np.int32, np.int64, list], ids=["int32", "int64", "list"])
def test_wide_integers_are_taken_for_the_samples_they_hold(as_type: type, bits: int) -> None:
    whole_N = np.round(0.9 * WAVE / np.abs(WAVE).max() * 2 ** (bits - 1)).astype(np.int64)
    got = heard(whole_N.tolist() if as_type is list else whole_N.astype(as_type), RATE, RATE)
    np.testing.assert_allclose(got, whole_N / 2 ** (bits - 1), atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("level", [0.9, 1e-3])
def test_wide_unsigned_integers_are_taken_for_the_samples_they_hold(dtype: type, bits: int, level: float) -> None:
    whole_N = np.round(level * WAVE / np.abs(WAVE).max() * 2.0 ** (bits - 1)) + 2 ** (bits - 1)
    got = heard(whole_N.astype(dtype), RATE, RATE)
    np.testing.assert_allclose(got, whole_N / 2 ** (bits - 1) - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "bits", "held"),
    [
        (np.int32, 16, 16), (np.int32, 24, 24), (np.uint32, 16, 16), (np.uint32, 24, 24), (np.int32, 32, 0),
        (np.uint32, 32, 0), (np.int16, 16, 0), (np.uint16, 16, 0), (np.float32, 1, 0),
    ],
)  # fmt: skip
def test_a_stream_of_samples_in_a_wider_type_is_told(dtype: type, bits: int, held: int) -> None:
    wave_N = 0.9 * WAVE / np.abs(WAVE).max() * np.linspace(0, 1, len(WAVE)) * 2.0 ** (bits - 1)
    if np.dtype(dtype).kind == "u":
        wave_N += 2 ** (bits - 1)
    stream = StreamRecording([np.zeros(9, dtype), *np.split(wave_N.astype(dtype), 9)], RATE)
    list(stream.blocks(24_000))
    if held:
        wanted = f"the 32-bit integers hold no more than {held} bits, and are taken at the full scale of 32 bits"
        assert len(stream.warnings) == 1 and wanted in stream.warnings[0]
        assert stream.warnings[0].endswith("; give int16, or floats at -1 to 1")
    else:
        assert stream.warnings == []


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_blocks_of_64_bit_integers_are_refused(dtype: type) -> None:
    with pytest.raises(AudioError, match=r"64-bit integers have no known full scale; give int16, .* full scale is"):
        as_float(np.ones(100, dtype), "stream", channels_last=True)
    assert as_float(np.full(1, 2**30, np.int32), "stream", channels_last=True)[0, 0] == 0.5


@pytest.mark.parametrize("shape", [(32, 24_000), (24_000, 32), (9, 10), (2, 2), (8, 3)])
def test_a_batch_of_clips_is_not_taken_for_a_recording(shape: tuple[int, int]) -> None:
    with pytest.raises(AudioError, match=r"is not that of a recording .* there is embed_many"):
        ArrayRecording(np.zeros(shape, np.float32), RATE)
    for fine in ((8, 24_000), (24_000, 8), (1, 5), (5, 1), (2, 9)):
        assert ArrayRecording(np.zeros(fine, np.float32), RATE).channels == min(fine)


def test_tensors_of_bfloat16_and_with_gradients_are_arrays_too() -> None:
    wave = torch.from_numpy(WAVE).requires_grad_()
    np.testing.assert_array_equal(heard(wave, RATE, RATE), WAVE)
    np.testing.assert_allclose(heard(wave.bfloat16(), RATE, RATE), WAVE, rtol=0.01)


def test_the_shorter_axis_is_channels() -> None:
    stereo = np.stack([WAVE, -WAVE / 2], axis=1)
    np.testing.assert_array_equal(heard(stereo, RATE, RATE), heard(stereo.T, RATE, RATE))
    np.testing.assert_allclose(heard(stereo, RATE, RATE), WAVE / 4, atol=1e-7)


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 9)), np.array(["a"]), np.zeros(9, complex), np.float32(1), [None]])
def test_what_is_no_sound_is_a_type_error(bad: object) -> None:
    with pytest.raises(TypeError, match="shape"):
        ArrayRecording(bad, RATE)


@pytest.mark.parametrize("rate_hz", [-1, 0, 1, 999, 1_536_001, 10**9])
def test_rates_no_recording_has_are_refused(rate_hz: int) -> None:
    with pytest.raises(AudioError, match="sample rate"):
        heard(np.ones(1000, np.float32), rate_hz, 24_000)


# ----------------------------------------------------------------------------------------------- wrong samples


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("at", [0, 30_001, len(WAVE) - 1])
def test_a_wrong_sample_is_refused_with_its_position(value: float, at: int, write: Callable[..., Path]) -> None:
    wave = WAVE.copy()
    wave[at] = value
    where = rf"sample {at} \({at / RATE:.6f} s\) is {value:g}".replace("+", r"\+")
    path = write("bad.wav", wave, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=rf"bad\.wav: {where}; "):
        decoded(path, 24_000)
    with pytest.raises(AudioError, match=where):
        heard(wave, RATE, 24_000)


def test_a_wrong_sample_in_one_channel_is_refused() -> None:
    stereo = np.stack([WAVE, WAVE], axis=1)
    stereo[7, 1] = np.nan
    with pytest.raises(AudioError, match=r"sample 7 .* is nan"):
        heard(stereo, RATE, 24_000)


def test_values_no_float32_can_hold_are_refused() -> None:
    with pytest.raises(AudioError, match="sample 1 "):
        heard(np.array([0.0, 1e300, 0.0]), RATE, 24_000)


def test_floats_a_little_beyond_full_scale_are_kept(write: Callable[..., Path]) -> None:
    got, _ = decoded(write("a.wav", 20 * WAVE, RATE, subtype="FLOAT"))
    np.testing.assert_array_equal(got, 20 * WAVE)


@pytest.mark.parametrize(("gain", "warnings"), [
    (2.0**15, ["samples reach about 16384, and full scale is 1: divide samples of 16 bits by 32768"]), (60.0, []),
])  # fmt: skip
def test_integers_as_floats_are_warned_of_and_loud_floats_are_not(
    gain: float, warnings: list[str], write: Callable[..., Path]
) -> None:
    """`int16.astype(float)` is a common slip; a mix in floats may exceed full scale by a lot."""
    wave_N = gain * tone(440, RATE)
    for recording in (Recording(write("loud.wav", wave_N, RATE, subtype="FLOAT")), ArrayRecording(wave_N, RATE)):
        assert sum(map(len, recording.blocks(24_000))) and recording.warnings == warnings


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_a_constant_is_flagged_as_silent_and_a_quiet_sound_is_not(level: float, write: Callable[..., Path]) -> None:
    _, recording = decoded(write("a.wav", np.full(5000, level), RATE))
    assert recording.silent and any("silent" in warning for warning in recording.warnings)
    _, quiet = decoded(write("b.wav", level + 1e-3 * tone(440, RATE), RATE))
    assert not quiet.silent and quiet.warnings == []


# ---------------------------------------------------------------------------------------------- lying headers


def with_wav_length(data: bytes, length: int) -> bytes:
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", length) + data[at + 4 :]


def with_flac_total(data: bytes, total: int) -> bytes:
    bits = int.from_bytes(data[18:26], "big") & ~((1 << 36) - 1)
    return data[:18] + (bits | total).to_bytes(8, "big") + data[26:]


def with_xing_frames(data: bytes, frames: int) -> bytes:
    at = max(data.find(b"Xing"), data.find(b"Info"))
    assert data[at + 7] & 1  # the tag counts frames
    return data[: at + 8] + struct.pack(">I", frames) + data[at + 12 :]


def without_xing(data: bytes) -> bytes:
    """The MP3 (44.1 kHz, tag frame of 128 kbit/s, as LAME writes it) without its first frame, which holds the tag."""
    length = 144 * 128_000 // 44_100
    assert b"Xing" in data[:length] and data[:2] == data[length : length + 2]
    return data[length:]


@pytest.mark.parametrize("length", [0, 8820, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_wav_is_read_to_its_end_whatever_length_it_announces(length: int, subtype: str) -> None:
    honest = encoded(WAVE, RATE, "WAV", subtype)
    got, recording = decoded(with_wav_length(honest, length))
    np.testing.assert_array_equal(got, decoded(honest)[0])
    assert recording.seconds == 3.0


def test_tags_behind_the_samples_of_a_wav_are_not_taken_for_sound() -> None:
    data = encoded(WAVE, RATE, "WAV", "PCM_16")
    tags = b"LIST" + struct.pack("<I", 20_000) + bytes(20_000) + b"id3 " + struct.pack("<I", 9000) + bytes(9000)
    got, recording = decoded(data + tags)
    assert len(got) == len(WAVE) and recording.warnings == []


@pytest.mark.parametrize("total", [0, 1, 44_100, 2**36 - 1])
def test_a_flac_is_read_to_its_end_whatever_length_it_announces(total: int) -> None:
    honest = encoded(WAVE, RATE, "FLAC")
    got, recording = decoded(with_flac_total(honest, total))
    np.testing.assert_array_equal(got, decoded(honest)[0])
    if total == 2**36 - 1:
        assert "could be decoded" in recording.warnings[-1]


@pytest.mark.parametrize("make", [lambda wave, rate_hz: encoded(wave, rate_hz, "MP3"), vbr_mp3], ids=["cbr", "vbr"])
@pytest.mark.parametrize("frames", [0, 1, 20, 2**31 - 1])
def test_an_mp3_is_read_to_its_end_whatever_its_tag_announces(
    make: Callable[[np.ndarray, int], bytes], frames: int
) -> None:
    honest = make(WAVE, RATE)
    got, _ = decoded(with_xing_frames(honest, frames))
    assert_mp3_holds(got, decoded(honest)[0])


@pytest.mark.parametrize("levels", [(1, 1e-3, 1e-3), (1e-3, 1, 1)])
def test_a_variable_rate_mp3_without_its_tag_is_read_to_its_end(levels: tuple[float, ...]) -> None:
    # Its length is guessed from the first frames, whether those take many bytes or few.
    honest = vbr_mp3(np.concatenate([level * WAVE for level in levels]), RATE)
    got, _ = decoded(without_xing(honest))
    assert_mp3_holds(got, decoded(honest)[0])


def assert_mp3_holds(got: np.ndarray, wanted: np.ndarray) -> None:
    """All samples of `wanted` in one piece; in front and behind, what encoders pad may be left."""
    assert abs(len(got) - len(wanted)) <= 2 * 1152
    lag = min(range(2 * 1152), key=lambda i: off_by(got[i : i + 2000], wanted[:2000]))
    assert off_by(got[lag:], wanted) < 1e-3


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3"])
def test_a_header_that_announces_a_little_too_short_is_no_loss(container: str) -> None:
    # Less than 4 kB too short: a third of a second of MP3, and half a second of telephone speech.
    wave = music(1.0, 8000)
    subtype = {"WAV": "ULAW", "FLAC": "PCM_16", "MP3": None}[container]
    honest = encoded(wave, 8000, container, subtype)
    lie = {
        "WAV": lambda: with_wav_length(honest, 5000),
        "FLAC": lambda: with_flac_total(honest, 7000),
        "MP3": lambda: with_xing_frames(honest, 8),
    }[container]()
    got, recording = decoded(lie, 8000)
    lost = (8000 - len(got)) / 8000
    assert lost < 0.05 or recording.warnings, f"{lost:.2f} s are lost, and nobody is told"
    assert lost < 0.05


def test_a_short_unfinished_wav_is_read() -> None:
    wave = music(0.1, 16_000)
    got, _ = decoded(with_wav_length(encoded(wave, 16_000, "WAV", "PCM_16"), 0), 16_000)
    assert len(got) == len(wave)


@pytest.mark.parametrize("channels", [65, 255, 1000])
def test_huge_channel_counts_are_refused(channels: int) -> None:
    data = encoded(np.zeros((50, channels)), RATE, "WAV", "PCM_16")
    with pytest.raises(AudioError, match=f"{channels} channels"):
        decoded(data)
    with pytest.raises(AudioError, match="channels"):
        heard(np.zeros((5000, channels), np.float32), RATE, 24_000)


def test_absurd_numbers_in_a_wav_header_are_an_audio_error() -> None:
    data = bytearray(encoded(WAVE, RATE, "WAV", "PCM_16"))
    for rate_hz, channels in ((0, 1), (1, 1), (2**31 - 1, 1), (RATE, 0), (RATE, 65_535)):
        data[22:28] = struct.pack("<HI", channels, rate_hz)
        with pytest.raises(AudioError):
            decoded(bytes(data))


# ----------------------------------------------------------------------------------------------------- damage

LONG = music(13.0, RATE, seed=6)  # 1 % of it is over the tenth of a second that may go unnoticed
DAMAGED = [("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


@pytest.mark.parametrize("percent", [10, 50, 99])
@pytest.mark.parametrize(("container", "subtype"), DAMAGED)
def test_a_truncated_file_gives_what_is_left_and_a_warning(container: str, subtype: str, percent: int) -> None:
    data = encoded(LONG, RATE, container, subtype)
    wanted = decoded(data)[0]
    got, recording = decoded(data[: len(data) * percent // 100])
    lost = {"OGG": 1.0}.get(container, 0.3)  # pages of Ogg hold most of a second
    assert 0 < len(got) / RATE <= 13.0 * percent / 100 + 0.5
    assert len(got) / RATE >= 13.0 * percent / 100 - lost - 0.02 * 13.0
    assert off_by(got[:-2304], wanted) < 1e-3
    assert recording.seconds == len(got) / RATE
    assert recording.warnings, f"{len(got) / RATE:.2f} s of 13 s, and nobody is told"


@pytest.mark.parametrize(("container", "subtype"), DAMAGED)
def test_a_garbage_tail_leaves_the_sound_before_it_alone_and_is_warned_about(container: str, subtype: str) -> None:
    data = encoded(WAVE, RATE, container, subtype)
    tail = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()
    wanted = decoded(data)[0]
    got, recording = decoded(data + tail)
    assert len(got) >= len(wanted) - 2304 and recording.warnings
    assert off_by(got[: len(wanted) - 2304], wanted) < 1e-3


@pytest.mark.parametrize("size", [1, 4, 12, 43, 44, 45, 46])
def test_a_wav_cut_in_or_right_behind_its_header_is_an_audio_error_or_empty(size: int) -> None:
    data = encoded(WAVE, RATE, "WAV", "PCM_16")
    try:
        got, _ = decoded(data[:size])
    except AudioError:
        return
    assert len(got) <= 1


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=600), start=st.sampled_from([b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb\x90\xc4"])
)
def test_arbitrary_bytes_are_an_audio_error_or_sound(data: bytes, start: bytes) -> None:
    try:
        got, _ = decoded(start + data)
    except AudioError:
        return
    assert np.isfinite(got).all()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # soundfile prints failed seeks
@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 300), value=st.integers(0, 255), container=st.sampled_from(["WAV", "FLAC", "AIFF", "OGG"]))
def test_a_changed_byte_in_a_header_is_an_audio_error_or_sound(at: int, value: int, container: str) -> None:
    data = bytearray(encoded(WAVE[:4000], RATE, container))
    data[at] = value
    try:
        got, _ = decoded(bytes(data), max_seconds=60)
    except AudioError:
        return
    assert np.isfinite(got).all()


def test_the_contents_decide_and_not_the_suffix(tmp_path: Path) -> None:
    data = encoded(WAVE, RATE, "MP3")
    (tmp_path / "a.wav").write_bytes(data)
    np.testing.assert_array_equal(decoded(tmp_path / "a.wav")[0], decoded(data)[0])


@pytest.mark.parametrize("with_av", [True, False])
def test_text_named_wav_is_an_audio_error(with_av: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_av:
        pytest.importorskip("av")
    else:
        monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.wav").write_text("Dear diary,\nno sound today.\n" * 50)
    with pytest.raises(AudioError, match=r"a\.wav: "):
        decoded(tmp_path / "a.wav")


def test_a_folder_a_missing_file_and_an_empty_file_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    (tmp_path / "empty.wav").touch()
    for name, reason in (("a.wav", "is a directory"), ("no.wav", "no such file"), ("empty.wav", "file is empty")):
        with pytest.raises(AudioError, match=rf"{name}: .*{reason}.*; ") as caught:
            decoded(tmp_path / name)
        assert caught.value.source == str(tmp_path / name) and caught.value.remedy
    with pytest.raises(AudioError, match="empty"):
        decoded(b"")


def test_a_circle_of_links_is_an_audio_error(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(tmp_path / "b.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(AudioError):
        decoded(tmp_path / "a.wav")


def test_a_name_too_long_for_the_disk_is_an_audio_error(tmp_path: Path) -> None:
    with pytest.raises(AudioError):
        decoded(tmp_path / ("a" * 300 + ".wav"))


# ------------------------------------------------------------------------------------------------------ bombs


def silent_flac(hours: float) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8000, 1, format="FLAC", subtype="PCM_16") as sound:
        for _ in range(round(hours * 60)):
            sound.write(np.zeros(60 * 8000, np.int16))
    return file.getvalue()


def test_max_seconds_counts_decoded_samples_and_not_what_the_header_says() -> None:
    bomb = with_flac_total(silent_flac(3), 8000)
    assert len(bomb) < 300_000
    n = 0

    def counted() -> Iterator[int]:
        for block in Recording(bomb).blocks(8000, max_seconds=2.0):
            yield len(block)

    with pytest.raises(AudioError, match=r"longer than max_seconds=2;"):
        for length in counted():
            n += length
    assert 1.8 * 8000 <= n <= 2.0 * 8000
    wave = np.zeros(5 * RATE, np.float32)
    with pytest.raises(AudioError, match=r"max_seconds=4\.9"):
        list(ArrayRecording(wave, RATE).blocks(24_000, max_seconds=4.9))
    assert sum(map(len, ArrayRecording(wave, RATE).blocks(24_000, max_seconds=5.0))) == 5 * 24_000


def test_half_an_hour_from_a_few_kilobytes_is_decoded_in_bounded_memory() -> None:
    bomb = silent_flac(0.5)
    assert len(bomb) < 50_000
    recording = Recording(bomb)
    tracemalloc.start()
    try:
        n = sum(len(block) for block in recording.blocks(8000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == 1800 * 8000 and recording.silent
    assert peak < 2 << 20, f"{peak} bytes for blocks of 3 kB"


def test_the_announced_length_is_infinite_where_none_is_announced() -> None:
    assert Recording(with_flac_total(encoded(WAVE, RATE, "FLAC"), 0)).claimed_seconds() == np.inf


@pytest.mark.parametrize("between", [b"", b"junk!", b"ID3\x04\x00\x00\x00\x00\x00\x05hello"], ids=["", "junk", "tag"])
@pytest.mark.parametrize("tagged", [True, False])
def test_joined_mp3_files_are_read_to_the_last(between: bytes, tagged: bool) -> None:
    part = encoded(WAVE, RATE, "MP3")
    if not tagged:
        part = without_xing(part)
    got, recording = decoded(between.join([part] * 3))
    assert len(got) / RATE == pytest.approx(9.0, abs=0.3)
    assert any("announced less" in warning for warning in recording.warnings) == tagged


def test_an_old_mp3_without_a_tag_is_nothing_to_warn_about() -> None:
    _, recording = decoded(without_xing(encoded(WAVE, RATE, "MP3")))
    assert recording.warnings == []
