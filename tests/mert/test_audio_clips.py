"""Clips from the midst of recordings: the bits of the whole recording, whatever the format, rate, start and damage."""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from harness.encoders import by_ffmpeg, damaged, decoded, encoded, id3, noise, off_by
from harness.sounds import music
from hypothesis import given, settings
from hypothesis import strategies as st

from mert.audio.clips import layout_of, n_samples_at, read_clip, signal
from mert.audio.contents import Layout
from mert.audio.ogg import checksum, found
from mert.audio.pieces import clip, in_pieces, needed
from mert.audio.recording import ArrayRecording, Recording, Source, resampled
from mert.errors import AudioError

RATE = 44_100
S = 13.3  # more than one point of a layout, and no whole number of pieces


@cache
def wave(rate_hz: int = RATE, channels: int = 2, seconds: float = S) -> np.ndarray:
    tones = [music(seconds, rate_hz, seed) for seed in range(1, channels + 1)]
    hiss = 0.02 * np.random.default_rng(0).standard_normal(len(tones[0])) * (np.arange(len(tones[0])) > 5 * rate_hz)
    return (np.stack(tones, axis=1) + hiss[:, None]).astype(np.float32).squeeze()


def mp3(sound: np.ndarray, rate_hz: int, mode: str = "CONSTANT", compression: float = 0.5) -> bytes:
    file = io.BytesIO()
    channels = 1 if sound.ndim == 1 else sound.shape[1]
    how: dict[str, Any] = dict(bitrate_mode=mode, compression_level=compression)
    with soundfile.SoundFile(file, "w", rate_hz, channels, format="MP3", **how) as output:
        output.write(sound)
    return file.getvalue()


def opus(sound: np.ndarray, bits_per_s: int, use: str) -> bytes:
    av = pytest.importorskip("av")
    from harness.encoders import LAYOUTS, add_sound

    sound_NC, file = sound.reshape(len(sound), -1), io.BytesIO()
    with av.open(file, "w", format="ogg", options={"page_duration": "100000"}) as output:
        layout = LAYOUTS[sound_NC.shape[1]]
        stream = output.add_stream("libopus", rate=48_000, layout=layout, options={"application": use})
        stream.bit_rate = bits_per_s
        add_sound(output, stream, sound_NC, 960)
    return file.getvalue()


def whole(source: Source, rate_hz: int) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *signal(Recording(source), rate_hz)])


def check(source: Any, rate_hz: int, layout: Layout | None = None, seed: int = 0) -> Layout:
    """Clips at the beginning, in the midst, across pieces and at the very end are those of the whole."""
    layout, wanted = layout or layout_of(source), whole(source, rate_hz)
    n, random = n_samples_at(layout, rate_hz), np.random.default_rng(seed)
    assert n == len(wanted)
    ranges = [(0, min(n, 100)), (0, n), (max(0, n - 1000), n), (n // 2, n // 2 + 1), (n - 1, n), (n, n)]
    for start in random.integers(0, n, 5):
        ranges.append((int(start), min(n, int(start) + int(random.integers(1, 5 * rate_hz)))))
    ranges += [(s * rate_hz, (s + 1) * rate_hz) for s in range(min(3, n // rate_hz))]
    for start, stop in ranges:
        np.testing.assert_array_equal(read_clip(source, layout, rate_hz, start, stop - start), wanted[start:stop])
    return layout


# -------------------------------------------------------------------------------------------------------- bit for bit

LIBSNDFILE = [
    ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
    ("WAV", "ULAW"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("AU", "PCM_16"),
    ("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("VOC", "PCM_16"), ("PVF", "PCM_16"),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype"), LIBSNDFILE)
def test_where_libsndfile_seeks_a_clip_has_the_bits_of_the_whole(container: str, subtype: str) -> None:
    sound = wave(channels={"PCM_24": 1, "FLOAT": 6}.get(subtype, 2), seconds=3.3)
    data = encoded(sound, RATE, container, subtype)
    layout = check(data, 24_000)
    assert layout == Layout(RATE, len(sound), "samples")
    check(data, RATE, layout)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_a_format_whose_samples_depend_on_others_is_decoded_from_its_beginning(subtype: str) -> None:
    assert check(encoded(wave(seconds=3.3), RATE, "WAV", subtype), 24_000).kind == "start"


@pytest.mark.parametrize(
    ("mode", "compression", "rate_hz", "channels"),
    [
        ("CONSTANT", 0.0, 44_100, 2), ("CONSTANT", 0.99, 44_100, 2), ("CONSTANT", 0.99, 22_050, 2),
        ("CONSTANT", 0.6, 8_000, 1), ("VARIABLE", 0.2, 48_000, 2), ("VARIABLE", 0.99, 44_100, 1),
        ("VARIABLE", 0.99, 16_000, 2), ("VARIABLE", 0.2, 22_050, 1), ("AVERAGE", 0.6, 32_000, 1),
    ],
)  # fmt: skip
def test_an_mp3_of_any_bitrate(mode: str, compression: float, rate_hz: int, channels: int, capfd: Any) -> None:
    data = mp3(wave(rate_hz, channels), rate_hz, mode, compression)
    layout = check(data, 24_000)
    assert layout.kind == "mp3" and 2 < len(layout.points) < 5
    check(data, rate_hz, layout)
    assert capfd.readouterr().err == "", "mpg123 prints remarks"


@pytest.mark.parametrize(("rate_hz", "channels"), [(96_000, 1), (44_100, 2), (22_050, 1), (8_000, 2)])
def test_ogg_vorbis(rate_hz: int, channels: int) -> None:
    data = encoded(wave(rate_hz, channels), rate_hz, "OGG", "VORBIS")
    layout = check(data, 24_000)
    assert layout.kind == "ogg" and layout.n_samples == len(wave(rate_hz, channels))
    check(data, rate_hz, layout)


def test_a_page_that_counts_more_samples_than_it_holds_gives_those_that_it_holds() -> None:
    data = encoded(wave(48_000, 1), 48_000, "OGG", "OPUS")
    held = found(io.BytesIO(data))
    assert held
    at = held.links[0].runs[0][-1].place.start
    page = bytearray(data[at:])
    page[6:14] = (int.from_bytes(page[6:14], "little") + 1000).to_bytes(8, "little")
    page[22:26] = bytes(4)
    page[22:26] = checksum(bytes(page))
    layout = check(data[:at] + bytes(page), 24_000)
    assert layout.kind == "ogg" and len(wave(48_000, 1)) < layout.n_samples < len(wave(48_000, 1)) + 1000


def test_an_ogg_file_whose_last_page_holds_much_ends_with_its_last_sample() -> None:
    longer = found(io.BytesIO(encoded(wave(48_000, 1), 48_000, "OGG", "VORBIS")))
    assert longer
    n = longer.links[0].runs[0][8].samples - 300
    data = encoded(wave(48_000, 1)[:n], 48_000, "OGG", "VORBIS")
    wanted, layout = whole(data, 48_000), layout_of(data)
    for start in range(n - 5000, n, 500):
        np.testing.assert_array_equal(read_clip(data, layout, 48_000, start, n - start), wanted[start:])


@pytest.mark.parametrize(
    ("rate_hz", "channels"), [(48_000, 1), (48_000, 2), (24_000, 2), (16_000, 1), (12_000, 1), (8_000, 2)]
)
def test_opus_gives_the_same_bits_after_its_preroll(rate_hz: int, channels: int) -> None:
    layout = check(encoded(wave(rate_hz, channels), rate_hz, "OGG", "OPUS"), 24_000)
    assert layout.kind == "ogg" and layout.n_samples == len(wave(rate_hz, channels))


@pytest.mark.parametrize(
    ("bits_per_s", "use"), [(128_000, "audio"), (32_000, "audio"), (16_000, "audio"), (8_000, "voip")]
)
def test_opus_at_any_bitrate_also_where_it_codes_speech(bits_per_s: int, use: str) -> None:
    kind = check(opus(wave(48_000, 1, 8.0), bits_per_s, use), 24_000).kind
    assert kind == ("start" if use == "voip" else "ogg")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("codec", "block"), [("aac", 1024), ("alac", 4096)])
def test_m4a(codec: str, block: int, channels: int) -> None:
    data = by_ffmpeg(wave(channels=channels), RATE, codec, "ipod", block)
    layout = check(data, 24_000)
    assert layout.kind == "ffmpeg"
    got, wanted = whole(data, RATE), decoded(data)[0]
    assert len(got) == len(wanted)
    if codec == "aac":  # FFmpeg's draws noise in some packets
        assert off_by(got, wanted) < 0.1
    else:
        np.testing.assert_array_equal(got, wanted)


@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(["flac", "mp3", "ogg"]), share=st.floats(0, 1), seconds=st.floats(0, 4))
def test_any_clip_of_any_length(kind: str, share: float, seconds: float) -> None:
    data, layout, wanted = _prepared(kind)
    start = int(share * len(wanted))
    n = min(len(wanted) - start, int(seconds * 16_000))
    np.testing.assert_array_equal(read_clip(data, layout, 16_000, start, n), wanted[start : start + n])


@cache
def _prepared(kind: str) -> tuple[bytes, Layout, np.ndarray]:
    data = mp3(wave(), RATE, "VARIABLE") if kind == "mp3" else encoded(wave(), RATE, kind.upper())
    return data, layout_of(data), whole(data, 16_000)


# ---------------------------------------------------------------------------------------------------------- the signal


@pytest.mark.parametrize("from_hz", [8_000, 11_025, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("to_hz", [16_000, 24_000])
def test_pieces_are_the_resampled_whole_but_for_its_rounding(from_hz: int, to_hz: int) -> None:
    sound = wave(from_hz, 1, 3.3)
    streamed = np.concatenate(list(resampled(iter([sound]), from_hz, to_hz)))
    got = np.concatenate(list(in_pieces(iter(np.array_split(sound, 7)), from_hz, to_hz)))
    assert len(got) == len(sound) * to_hz // from_hz
    assert np.abs(got - streamed[: len(got)]).max() < 3e-7 and 0 <= len(streamed) - len(got) <= 1


@settings(max_examples=60, deadline=None)
@given(
    rates=st.tuples(*2 * [st.sampled_from([1_000, 7_919, 8_000, 22_050, 44_100, 48_000])]),
    n=st.integers(0, 30_000), cuts=st.lists(st.integers(0, 30_000), max_size=5), at=st.tuples(*2 * [st.floats(0, 1)]),
)  # fmt: skip
def test_a_piece_needs_no_other_however_the_sound_comes(
    rates: tuple[int, int], n: int, cuts: list[int], at: tuple[float, float]
) -> None:
    from_hz, to_hz = rates
    sound = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    blocks = np.split(sound, sorted(min(cut, n) for cut in cuts))
    got = np.concatenate([sound[:0], *in_pieces(iter(blocks), from_hz, to_hz)])
    assert len(got) == n * to_hz // from_hz
    start, stop = sorted(int(share * len(got)) for share in at)
    wanted = needed(start, stop, from_hz, to_hz)
    part = clip(sound[wanted.start : wanted.stop].copy(), wanted.start, start, stop, from_hz, to_hz)
    np.testing.assert_array_equal(part, got[start:stop])


def test_an_array_has_a_signal_too() -> None:
    got = np.concatenate(list(signal(ArrayRecording(wave(), RATE), 24_000)))
    np.testing.assert_array_equal(got, whole(encoded(wave(), RATE, "WAV", "FLOAT"), 24_000))


# ----------------------------------------------------------------------------------------------- tags, lengths, sources


@pytest.mark.parametrize(
    ("front", "behind"),
    [(90_000, b""), (0, b"TAG" + bytes(125)), (0, bytes(3000)), (50, id3(60_000))],
    ids=["in front", "id3v1", "zeros", "both"],
)
@pytest.mark.parametrize("make", ["mp3", "flac", "ogg", "wav"])
def test_tags_are_no_sound(make: str, front: int, behind: bytes) -> None:
    data = mp3(wave(seconds=2.2), RATE) if make == "mp3" else encoded(wave(seconds=2.2), RATE, make.upper())
    tagged = (id3(front) if front else b"") + data + behind
    assert check(tagged, 24_000).kind == {"mp3": "mp3", "ogg": "ogg"}.get(make, "samples")
    np.testing.assert_array_equal(whole(tagged, 24_000), whole(data, 24_000))


@pytest.mark.parametrize("seconds", [0.01, 0.2, 1.0, 1.05, 2.0])
@pytest.mark.parametrize("make", ["mp3", "flac", "ogg", "wav"])
def test_recordings_of_a_piece_and_less(make: str, seconds: float) -> None:
    sound = wave(seconds=seconds)
    data = mp3(sound, RATE) if make == "mp3" else encoded(sound, RATE, make.upper())
    assert check(data, 24_000).n_samples == len(sound)


def test_an_mp3_without_a_tag_and_one_whose_beginning_was_cut_off() -> None:
    data = mp3(wave(channels=1), RATE, compression=0.99)  # its frames are too small for a tag
    check(data, 24_000)
    start = data.index(data[:2], 30 * 104)
    assert check(data[start:], 24_000).kind == "mp3"


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO])
@pytest.mark.parametrize("kind", ["flac", "mp3", "ogg"])
def test_all_sources_give_the_same_clip(kind: str, wrap: Callable[[bytes], Any], tmp_path: Path) -> None:
    data, layout, wanted = _prepared(kind)
    (tmp_path / "a").write_bytes(data)
    assert layout_of(wrap(data)) == layout_of(tmp_path / "a") == layout
    with (tmp_path / "a").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for source in (wrap(data), tmp_path / "a", str(tmp_path / "a"), file, mapped, Recording(data)):
            got = read_clip(source, layout, 16_000, 100_000, 50_000)
            np.testing.assert_array_equal(got, wanted[100_000:150_000])


class Counting(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    n = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.n += len(data)
        return data


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_a_clip_of_a_long_recording_reads_little_of_it(kind: str) -> None:
    sound = np.tile(wave(22_050, 1, 10.0), 12)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 22_050, 1, format=kind.upper()) as output:
        for block in np.split(sound, 120):  # libsndfile crashes where it is to code much at once as Vorbis
            output.write(block)
    data = file.getvalue()
    layout = layout_of(data)
    for start in (0, 1_000_000, 24_000 * 119):
        counting = Counting(data)
        read_clip(counting, layout, 24_000, start, 24_000)
        assert counting.n < 0.4 * len(data), start


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_length_is_found_without_reading_the_samples(kind: str) -> None:
    data = encoded(np.tile(noise_wave(), (16, 1)), RATE, kind.upper())
    file = Counting(data)
    assert layout_of(file).n_samples == 16 * len(noise_wave())
    assert file.n < 0.4 * len(data)


@cache
def noise_wave() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (2 * RATE, 2)).astype(np.float32)


# ------------------------------------------------------------------------------------------------- damage, lies, chains

BROKEN: dict[str, Callable[[], bytes]] = {
    "flac": lambda: damaged(encoded(wave(seconds=6.3), RATE, "FLAC"), 0.5, 300),
    "flac in two places": lambda: damaged(damaged(encoded(wave(seconds=6.3), RATE, "FLAC"), 0.3, 100), 0.7, 40_000),
    "flac, cut": lambda: encoded(wave(seconds=6.3), RATE, "FLAC")[:-20_000],
    "flac, joined": lambda: 2 * encoded(wave(seconds=2.0), RATE, "FLAC"),
    "flac, long and joined": lambda: 2 * encoded(noise_wave(), RATE, "FLAC", "PCM_24") * 2,
    "ogg": lambda: damaged(encoded(wave(seconds=6.3), RATE, "OGG"), 0.5, 50),
    "ogg, cut": lambda: encoded(wave(seconds=6.3), RATE, "OGG")[:-500],
    "ogg, joined": lambda: 2 * encoded(wave(seconds=2.0), RATE, "OGG"),
    "opus": lambda: damaged(encoded(wave(48_000, 1, 6.3), 48_000, "OGG", "OPUS"), 0.5, 50),
    "mp3, a body": lambda: damaged(mp3(wave(seconds=6.3), RATE), 0.5, 60),
    "mp3, a hole": lambda: damaged(mp3(wave(seconds=6.3), RATE), 0.5, 5000),
    "mp3, cut": lambda: mp3(wave(seconds=6.3), RATE)[:-5000],
    "mp3, joined": lambda: 2 * mp3(wave(seconds=2.0), RATE),
    "wav, cut": lambda: encoded(wave(seconds=6.3), RATE, "WAV")[:-5001],
    "aiff, cut": lambda: encoded(wave(seconds=6.3), RATE, "AIFF")[:-50_001],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_recording_gives_the_same_samples_in_clips(name: str) -> None:
    data = BROKEN[name]()
    check(data, 24_000)
    streamed = decoded(data, 24_000)[0]
    got = whole(data, 24_000)
    assert np.abs(got - streamed[: len(got)]).max() < 3e-7 and 0 <= len(streamed) - len(got) <= 1


def test_a_damaged_m4a_has_silence_in_both_and_says_so() -> None:
    data = damaged(by_ffmpeg(wave(), RATE, "aac", "ipod"), 0.5, 40)
    check(data, 24_000)
    recording = Recording(data)
    for _ in signal(recording, 24_000):
        pass
    assert recording.damaged and 0 < recording.lost_s < 0.2 and "are silence" in recording.warnings[0]


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_a_file_that_is_shorter_than_its_layout_is_an_error_with_both_lengths(kind: str) -> None:
    data = mp3(wave(), RATE) if kind == "mp3" else encoded(wave(), RATE, kind.upper())
    layout, short = layout_of(data), data[: len(data) // 2]
    read_clip(short, layout, 24_000, 0, 24_000)
    with pytest.raises(AudioError, match=r"ends after [567]\.\d+ s, "):
        read_clip(short, layout, 24_000, 5 * 24_000, 3 * 24_000)
    with pytest.raises(AudioError, match=r"ends (before 10\.95|after [567]\.\d+) s, "):
        read_clip(short, layout, 24_000, 11 * 24_000, 24_000)


def test_each_link_of_a_chain_is_in_pieces_of_its_own() -> None:
    parts = [encoded(wave(seconds=2.2), RATE, "OGG"), encoded(wave(22_050, 1, 3.3), 22_050, "OGG")]
    data = b"".join(parts)
    layout, wanted = layout_of(data), whole(data, 24_000)
    np.testing.assert_array_equal(wanted, np.concatenate([whole(part, 24_000) for part in parts]))
    n = n_samples_at(layout, 24_000)
    assert layout.kind == "start" and len(wanted) - 96 <= n <= len(wanted)
    for start in (0, 40_000, 52_000, n - 24_000):
        np.testing.assert_array_equal(read_clip(data, layout, 24_000, start, 24_000), wanted[start : start + 24_000])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (noise(50_000), "not audio that can be decoded|libsndfile cannot read it"),
        (b"Dear diary\n" * 500, "not audio that can be decoded|libsndfile cannot read it"),
        (encoded(np.zeros(100), 100, "WAV"), "a sample rate of 100 Hz"),
        (encoded(np.zeros((100, 65)), 8000, "WAV"), "65 channels"),
    ],
    ids=["empty", "noise", "text", "rate", "channels"],
)
def test_what_is_no_usable_audio_has_no_layout(data: bytes, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        layout_of(data)


def test_a_value_that_is_no_sample_is_named_with_its_place() -> None:
    sound = wave(channels=1, seconds=3.3).copy()
    sound[100_000] = np.nan
    data = encoded(sound, RATE, "WAV", "FLOAT")
    layout = layout_of(data)
    read_clip(data, layout, 24_000, 0, 24_000)
    with pytest.raises(AudioError, match=r"sample 100000 \(2\.267574 s\) is nan"):
        read_clip(data, layout, 24_000, 48_000, 24_000)


def test_a_file_that_is_gone_is_an_audio_error(tmp_path: Path) -> None:
    layout = _prepared("flac")[1]
    with pytest.raises(AudioError, match="no such file"):
        read_clip(tmp_path / "gone.flac", layout, 24_000, 0, 24_000)
