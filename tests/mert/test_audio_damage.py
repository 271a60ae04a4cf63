"""Recordings that change on the way, that are joined, damaged or cut off, and headers that announce wrong lengths."""

from __future__ import annotations

import struct
from functools import cache

import numpy as np
import pytest
from harness.encoders import RATE, by_ffmpeg, chunk, damaged, decoded, encoded, id3, noise, off_by, wav
from harness.sounds import music

from mert.audio.ogg import checksum, pages_of

LEFT, RIGHT = music(6.0, RATE, seed=1), music(6.0, RATE, seed=2)
STEREO = np.stack([LEFT, RIGHT], axis=1)
PCM = (STEREO * 32_767).astype("<i2").tobytes()
END = 2 * RATE  # the last two seconds are behind all damage below


def flac(wave: np.ndarray = STEREO, rate_hz: int = RATE) -> bytes:
    return encoded(wave, rate_hz, "FLAC")


def mp3(wave: np.ndarray = STEREO, rate_hz: int = RATE) -> bytes:
    return encoded(wave, rate_hz, "MP3")


@cache
def m4a() -> bytes:
    return by_ffmpeg(STEREO, RATE, "aac", "ipod")


# --------------------------------------------------------------------------------------- changes on the way, chains


def adts(wave: np.ndarray, rate_hz: int = RATE) -> bytes:
    return by_ffmpeg(wave, rate_hz, "aac", "adts")


def ac3(wave: np.ndarray, rate_hz: int = RATE) -> bytes:
    return by_ffmpeg(wave, rate_hz, "ac3", "ac3", block=1536)


def ogg_flac(wave: np.ndarray, rate_hz: int = RATE) -> bytes:
    return by_ffmpeg(wave, rate_hz, "flac", "ogg", block=4096)


def vorbis(wave: np.ndarray, rate_hz: int = RATE) -> bytes:
    return encoded(wave, rate_hz, "OGG", "VORBIS")


def opus(wave: np.ndarray, rate_hz: int = RATE) -> bytes:
    return encoded(wave[: len(wave) * 48_000 // RATE], {RATE: 48_000, 22_050: 24_000}[rate_hz], "OGG", "OPUS")


@pytest.mark.parametrize("encode", [adts, ac3, mp3, vorbis, opus, ogg_flac, flac])
@pytest.mark.parametrize("second", ["equal", "mono", "at half the rate"])
def test_what_is_joined_is_decoded_to_the_end_each_part_at_its_own_rate(encode: object, second: str) -> None:
    assert callable(encode)
    if encode is ac3 and second == "at half the rate":
        pytest.skip("AC-3 has no such rate")
    other = {"equal": (STEREO, RATE), "mono": (RIGHT, RATE), "at half the rate": (STEREO[::2], RATE // 2)}[second]
    parts = [encode(STEREO), encode(*other)]
    alone = [decoded(part, 24_000)[0] for part in parts]
    got, recording = decoded(b"".join(parts), 24_000)
    assert abs(len(got) - sum(map(len, alone))) <= 2 * 1152  # MP3: the tag of the second is a silent frame
    assert recording.seconds == pytest.approx(len(got) / 24_000, abs=1e-3)
    assert off_by(got[: len(alone[0]) - 2304], alone[0]) < 1e-3
    assert off_by(got[-24_000:], alone[1][-24_000:]) < 0.1  # FFmpeg's AAC and AC-3 add noise that is never the same
    assert not recording.damaged and all("announced less" in warning for warning in recording.warnings)


def test_the_recording_of_the_public_report_has_its_twelve_seconds() -> None:
    got, recording = decoded(adts(STEREO) + adts(LEFT))
    assert len(got) / RATE == pytest.approx(12.07, abs=0.01) and recording.warnings == []


def test_three_links_of_an_ogg_chain_follow_each_other() -> None:
    parts = [vorbis(STEREO[:RATE]), vorbis(LEFT[:RATE], 22_050), vorbis(RIGHT[:RATE])]
    got, recording = decoded(b"".join(parts))
    assert len(got) == 4 * RATE and recording.seconds == pytest.approx(4.0)
    assert recording.warnings == []


KINDS_OF_OGG = {"vorbis": vorbis, "opus": opus, "flac": ogg_flac}


@pytest.mark.parametrize("chain", ["flac vorbis", "vorbis flac", "opus flac", "flac flac vorbis", "vorbis opus flac"])
def test_links_of_several_codecs_are_each_decoded_by_what_can(chain: str) -> None:
    waves = (STEREO, RIGHT, STEREO[::-1])
    parts = [KINDS_OF_OGG[codec](wave) for codec, wave in zip(chain.split(), waves, strict=False)]
    wanted = np.concatenate([decoded(part, 24_000)[0] for part in parts])
    got, recording = decoded(b"".join(parts), 24_000)
    assert abs(len(got) - len(wanted)) <= 2 and off_by(got, wanted) < 0.02  # resampled in one or in several runs
    assert recording.warnings == [] and not recording.damaged
    assert recording.seconds == pytest.approx(len(wanted) / 24_000, abs=0.01) and recording.seconds > 5.5 * len(parts)


@pytest.mark.parametrize("front", [b"", "vorbis"], ids=["alone", "behind vorbis"])
def test_an_ogg_that_ffmpeg_reads_is_told_when_it_is_cut(front: object) -> None:
    before = vorbis(STEREO) if front else b""
    data = ogg_flac(STEREO)
    _, whole = decoded(before + data)
    got, recording = decoded(before + data[: len(data) // 2])
    assert whole.warnings == [] and not whole.damaged
    assert recording.damaged and recording.warnings == ["the last Ogg page is missing or cut: the file seems cut off"]
    assert 2.0 < len(got) / RATE - (6.0 if front else 0.0) < 3.5


def test_a_link_that_nothing_can_decode_is_named_and_the_others_are_decoded() -> None:
    bad = bytearray(ogg_flac(STEREO))
    for page in pages_of(bytes(bad), 0):
        at = page.place.start + 27 + bad[page.place.start + 26]
        bad[at : page.place.stop] = bytes(page.place.stop - at)
        start, stop = page.place.start, page.place.stop
        bad[start + 22 : start + 26] = bytes(4)
        bad[start + 22 : start + 26] = checksum(bytes(bad[start:stop]))
    got, recording = decoded(vorbis(STEREO) + bytes(bad) + ogg_flac(RIGHT))
    assert len(got) / RATE == pytest.approx(12.0, abs=0.01) and recording.damaged
    assert "1 of 3 streams in a row could not be decoded" in recording.warnings[0]


# ------------------------------------------------------------------------------------------------- damage in the midst

LONG = music(20.0, RATE, seed=3)
BLOCKS = {  # of FFmpeg's kinds with times or lengths of packets: what is lost is silence
    "mka": ("aac", "matroska"), "mka-flac": ("flac", "matroska"), "mov": ("aac", "mov"), "tta": ("tta", "tta"),
    "wv": ("wavpack", "wv"), "flv": ("aac", "flv"), "ts": ("aac", "mpegts"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "bad", "most_s"),
    [
        pytest.param(lambda: m4a(), lambda data: damaged(data, 0.1, 40), 0.1, id="m4a"),
        pytest.param(lambda: flac(), lambda data: damaged(data, 0.5, 300), 0.3, id="flac"),
        pytest.param(lambda: flac(), lambda data: damaged(data, 0.2, 30_000), 0.8, id="flac-long"),
        pytest.param(lambda: flac(), lambda data: data[:99_000] + data[101_000:], 0.3, id="flac-missing"),
        pytest.param(lambda: vorbis(LONG), lambda data: damaged(data, 0.5, 50), 1.0, id="vorbis"),
        pytest.param(lambda: vorbis(LONG), lambda data: damaged(data, 0.3, 30_000), 5.0, id="vorbis-long"),
        pytest.param(lambda: opus(LONG), lambda data: damaged(data, 0.5, 50), 1.1, id="opus"),
        *(
            pytest.param(
                lambda codec=codec, container=container: by_ffmpeg(STEREO, RATE, codec, container),
                lambda data: damaged(data, 0.5, 40), 1.1, id=name,
            )
            for name, (codec, container) in BLOCKS.items()
        ),
    ],
)  # fmt: skip
def test_what_damage_takes_is_silence_of_its_length_and_the_rest_is_in_its_place(
    data: object, bad: object, most_s: float
) -> None:
    assert callable(data) and callable(bad)
    whole = data()
    wanted = decoded(whole)[0]
    got, recording = decoded(bad(whole))
    assert abs(len(got) - len(wanted)) <= 1
    assert off_by(got[-END:], wanted[-END:]) < 0.04, "the sound behind the damage has moved"
    lost = (np.abs(got) < 1e-4) & (np.abs(wanted) > 1e-4)  # resampling reaches into the silence
    assert recording.damaged and 0 < recording.lost_s <= most_s
    assert lost.sum() / RATE == pytest.approx(recording.lost_s, abs=0.02)
    assert off_by(got[~lost], wanted[~lost]) < 0.3  # a decoder may need a packet to be itself again
    assert f"{recording.lost_s:.2f} s could not be decoded and are silence" in recording.warnings[0]


@pytest.mark.parametrize("filling", [noise, bytes], ids=["noise", "zeros"])
def test_an_mp3_with_a_hole_goes_on_behind_it(filling: object) -> None:
    assert callable(filling)
    data = mp3()
    wanted = decoded(data)[0]
    got, recording = decoded(data[:20_000] + filling(30_000) + data[50_000:])
    tail = wanted[-END:]
    at = int(np.correlate(got[-END - 2304 :], tail, "valid").argmax())  # what the encoder padded may be left at the end
    assert off_by(got[-END - 2304 + at :], tail) < 1e-3 and off_by(got[:40_000], wanted) < 1e-3
    assert (len(wanted) - len(got)) / RATE == pytest.approx(30_000 / len(data) * 6.0, abs=0.15)
    assert recording.damaged and recording.lost_s == pytest.approx((len(wanted) - len(got)) / RATE, abs=0.1)
    assert len(recording.warnings) == 1 and "left out" in recording.warnings[0]


def test_a_raw_stream_with_a_hole_says_what_is_missing() -> None:
    data = adts(STEREO)
    whole, _ = decoded(data)
    got, recording = decoded(data[:20_000] + bytes(30_000) + data[50_000:])
    assert recording.damaged and len(got) < len(whole) - RATE
    assert recording.lost_s == pytest.approx((len(whole) - len(got)) / RATE, abs=0.2)


@pytest.mark.parametrize("announced", [0, 100, 40_000, 1 << 27])
def test_an_mp3_whose_tag_announces_a_wrong_length_is_whole(announced: int) -> None:
    data = mp3()
    tag = id3(2000, announced)
    got, recording = decoded(tag + data)
    np.testing.assert_array_equal(got, decoded(data)[0])
    assert recording.warnings == [] and not recording.damaged


@pytest.mark.parametrize("garbage", [noise(60), b"\xff" * 60], ids=["noise", "ones"])
def test_a_bad_first_packet_costs_itself_alone(garbage: bytes) -> None:
    data = m4a()
    at = data.index(b"mdat") + 4
    wanted, _ = decoded(data)
    got, recording = decoded(data[:at] + garbage + data[at + 60 :])
    assert recording.damaged and recording.lost_s < 0.1
    assert abs(len(got) - len(wanted)) <= 1024 and off_by(got[-END:], wanted[-END:]) < 0.04


@pytest.mark.parametrize("in_frame", [0, 100], ids=["header", "body"])
def test_a_damaged_first_frame_of_a_flac_costs_itself_alone(in_frame: int) -> None:
    data = flac()
    at = data.index(b"\xff\xf8", 42) + in_frame
    got, recording = decoded(data[:at] + noise(50) + data[at + 50 :])
    wanted, _ = decoded(data)
    assert len(got) == len(wanted) and recording.damaged and recording.lost_s < 0.1
    np.testing.assert_array_equal(got[8192:], wanted[8192:])


def test_each_warning_about_a_flac_that_is_cut_says_something_else() -> None:
    data = flac()
    _, recording = decoded(data[: len(data) // 2])
    place, length = recording.warnings
    assert "could not be decoded and are silence" in place and length.startswith("the header announces 6.00 s, ")


def test_damage_in_several_places_is_counted() -> None:
    data = flac()
    _, recording = decoded(damaged(damaged(data, 0.3, 100), 0.7, 100))
    assert "is damaged in 2 places from 1.70 s: " in recording.warnings[0]


# ------------------------------------------------------------------------------------------- what lies behind the sound


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not counted"])
@pytest.mark.parametrize(
    "behind",
    [id3(90_000), bytes(100_000), chunk(b"LIST", 3000), chunk(b"LIST", 90_000)[:50_000], b"TAG" + bytes(125), b""],
    ids=["id3", "zeros", "list", "cut chunk", "id3v1", "nothing"],
)
def test_what_lies_behind_the_samples_of_a_wav_is_no_sound(behind: bytes, counted: bool) -> None:
    data = wav(PCM, 2, behind=behind, riff=None if counted else len(wav(PCM, 2)) - 8)
    got, recording = decoded(data)
    assert len(got) == 6 * RATE and recording.warnings == []


def test_bytes_behind_a_wav_that_could_be_sound_are_named() -> None:
    got, recording = decoded(wav(PCM, 2) + noise(100_000))
    assert len(got) == 6 * RATE
    assert recording.warnings == ["100000 bytes behind the end of the audio were not decoded"]


@pytest.mark.parametrize("container", ["WAV", "RF64", "AIFF"])
@pytest.mark.parametrize("name", [b"zork", b"SMED", b"ab c"])
@pytest.mark.parametrize("beyond", [0, 6000], ids=["last", "one is missing"])
def test_a_chunk_of_any_name_that_is_cut_off_is_no_sound(container: str, name: bytes, beyond: int) -> None:
    order, at = (">", 4) if container == "AIFF" else ("<", 20 if container == "RF64" else 4)
    data = encoded(STEREO, RATE, container, "PCM_16")
    data += name + struct.pack(order + "I", 500_000) + noise(100_000)
    layout = order + ("Q" if container == "RF64" else "I")
    outer = struct.pack(layout, len(data) - 8 + 400_000 + beyond)
    got, recording = decoded(data[:at] + outer + data[at + len(outer) :])
    assert len(got) == 6 * RATE and recording.warnings == [] and not recording.damaged


@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF, None], ids=["0", "from a pipe", "what is there"])
def test_a_cut_chunk_of_a_name_that_programs_write_is_no_sound_whatever_the_length_of_the_whole(riff: int) -> None:
    for name in (b"SMED", b"ResU", b"AFAn", b"bwfx"):
        got, recording = decoded(wav(PCM, 2, behind=chunk(name, 90_000)[:50_000], riff=riff))
        assert len(got) == 6 * RATE and recording.warnings == []


def test_sound_behind_a_wrong_length_stays_though_it_looks_like_the_beginning_of_a_chunk() -> None:
    samples = PCM[:40_000] + chunk(b"zork", 2_000_000)[:8] + PCM[40_008:]
    for riff in (None, 0, 0xFFFFFFFF):
        got, recording = decoded(wav(samples, 2, announced=40_000, riff=riff))
        assert len(got) == 6 * RATE and "announced less" in recording.warnings[0]


@pytest.mark.parametrize("pad", [b"", b"\0"], ids=["no pad byte", "pad byte"])
def test_a_chunk_behind_an_odd_number_of_bytes_is_no_sound(pad: bytes) -> None:
    samples = b"".join(int(v).to_bytes(3, "little", signed=True) for v in (LEFT * 8e6)[: 6 * RATE - 1])
    assert len(samples) % 2
    got, recording = decoded(wav(samples, 1, 24, behind=pad + chunk(b"LIST", 3000)))
    assert len(got) == 6 * RATE - 1 and recording.warnings == []


def unfinished(container: str, at: bytes, fields: dict[int, int]) -> bytes:
    """A file whose lengths, in bytes behind a word, were never written."""
    data = bytearray(encoded(STEREO, RATE, container, "PCM_16"))
    for offset, width in fields.items():
        start = data.index(at) + offset if offset >= 0 else -offset
        data[start : start + width] = bytes(width)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(wav(PCM, 2, announced=0, riff=0, front=chunk(b"JUNK", 70_000)), id="wav behind 70 kB"),
        pytest.param(wav(PCM, 2, announced=0, riff=36), id="wav"),
        pytest.param(wav(PCM, 2, announced=0xFFFFFFFF, riff=0xFFFFFFFF), id="wav from a pipe"),
        pytest.param(wav(PCM, 2, announced=8820, riff=0xFFFFFFFF), id="wav of any riff length"),
        pytest.param(unfinished("RF64", b"ds64", {8: 8, 16: 8, 24: 8}), id="rf64 from a pipe"),
        pytest.param(unfinished("W64", b"data\xf3", {16: 8, -16: 8}), id="w64 from a pipe"),
        pytest.param(unfinished("AIFF", b"SSND", {4: 4, -4: 4}), id="aiff"),
        pytest.param(unfinished("AIFF", b"COMM", {10: 4}), id="aiff without a count"),
        pytest.param(unfinished("CAF", b"data", {4: 8}), id="caf"),
        pytest.param(unfinished("AU", b".snd", {8: 4}), id="au"),
    ],
)
def test_unfinished_and_streamed_files_are_read_to_their_end(data: bytes) -> None:
    got, recording = decoded(data)
    assert len(got) == 6 * RATE and not recording.damaged
    np.testing.assert_allclose(got, (LEFT + RIGHT) / 2, atol=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.95])
@pytest.mark.parametrize("container", ["WAV", "RF64", "W64", "CAF", "AU", "AIFF"])
def test_a_cut_file_is_told_with_the_length_that_it_announces(container: str, share: float) -> None:
    data = encoded(STEREO, RATE, container, "PCM_16")
    got, recording = decoded(data[: round(share * len(data))])
    assert len(got) == pytest.approx(share * 6 * RATE, abs=2000)
    (warning,) = recording.warnings
    assert warning.startswith("the header announces 6.00 s, ") and recording.damaged
    assert recording.lost_s == pytest.approx(6.0 - len(got) / RATE, abs=0.01)


OLD = ["VOC-PCM_16", "VOC-PCM_U8", "VOC-ULAW", "NIST-PCM_16", "NIST-PCM_24", "NIST-ULAW", "SVX-PCM_16", "SVX-PCM_S8"]


@pytest.mark.parametrize("kind", [*OLD, "AVR-PCM_16", "AVR-PCM_U8", "SDS-PCM_16", "SDS-PCM_24", "WVE-ALAW"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_cut_file_of_an_old_kind_is_told_and_a_whole_one_gets_no_warning(kind: str, channels: int) -> None:
    container, subtype = kind.split("-")
    if channels == 2 and container in ("SVX", "SDS", "WVE"):
        pytest.skip("libsndfile writes it in mono alone")
    if kind == "VOC-PCM_U8":
        pytest.importorskip("av")  # libsndfile refuses one that is cut
    data = encoded(STEREO[:, :channels], 8000 if container == "WVE" else RATE, container, subtype)
    _, whole = decoded(data)
    assert whole.warnings == [] and not whole.damaged
    _, recording = decoded(data[: len(data) * 4 // 10])
    assert recording.damaged and "seems cut off" in recording.warnings[0]
    assert recording.seconds == pytest.approx(0.4 * whole.seconds, rel=0.01)
    if recording.lost_s:  # what FFmpeg reads has no known length
        assert recording.lost_s == pytest.approx(0.6 * whole.seconds, rel=0.01)


def test_zeros_behind_the_samples_of_an_8svx_are_no_sound() -> None:
    got, recording = decoded(encoded(LEFT, RATE, "SVX", "PCM_16") + bytes(50_000))
    assert len(got) == 6 * RATE and recording.warnings == []


def test_a_wav_with_much_in_front_of_its_samples_is_told_when_it_is_cut() -> None:
    _, recording = decoded(wav(PCM, 2, front=chunk(b"JUNK", 70_000))[:-500_000])
    assert "announces 6.00 s" in recording.warnings[0]


@pytest.mark.parametrize(
    ("codec", "container"),
    [("aac", "matroska"), ("flac", "matroska"), ("mp2", "avi"), ("aac", "flv"), ("tta", "tta"), ("wavpack", "wv")],
)
def test_cut_files_of_ffmpegs_kinds_are_told_where_they_announce_a_length(codec: str, container: str) -> None:
    data = by_ffmpeg(STEREO, RATE, codec, container, block=1152 if codec == "mp2" else 1024)
    got, recording = decoded(data[: len(data) // 2])
    assert 1.5 < len(got) / RATE < 3.5 and recording.damaged
    assert "announces 6.0" in recording.warnings[-1]


# ---------------------------------------------------------------------------------------------------- false alarms


def with_ape_art(data: bytes) -> bytes:
    art = noise(300_000)
    item = struct.pack("<II", len(art), 2) + b"Cover Art (Front)\0" + art
    ends = [b"APETAGEX" + struct.pack("<IIII", 2000, len(item) + 32, 1, flags << 28) + bytes(8) for flags in (10, 8)]
    return data + ends[0] + item + ends[1]


def aiff_with_id3() -> bytes:
    data, tag = encoded(STEREO, RATE, "AIFF", "PCM_16"), id3(90_000)
    data += b"ID3 " + struct.pack(">I", len(tag)) + tag
    return data[:4] + struct.pack(">I", len(data) - 8) + data[8:]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: adts(STEREO), id="aac"),
        pytest.param(lambda: with_ape_art(id3(60_000) + adts(STEREO)), id="aac with covers"),
        pytest.param(lambda: adts(STEREO) + b"TAG" + bytes(125), id="aac with a tag behind"),
        pytest.param(lambda: aiff_with_id3(), id="aiff with a cover"),
        pytest.param(lambda: with_ape_art(mp3()), id="mp3 with a cover behind"),
        pytest.param(lambda: id3(200_000) + mp3(), id="mp3 with a cover in front"),
        pytest.param(lambda: id3(5000) + flac(), id="flac behind a tag"),
        pytest.param(lambda: flac() + id3(60_000), id="flac with a tag behind"),
        pytest.param(lambda: with_ape_art(flac()), id="flac with a cover behind"),
        pytest.param(lambda: id3(5000) + wav(PCM, 2), id="wav behind a tag"),
        pytest.param(lambda: by_ffmpeg(STEREO, RATE, "mp2", "mp2", block=1152), id="mp2"),
        pytest.param(lambda: by_ffmpeg(STEREO, RATE, "ac3", "ac3", block=1536), id="ac3"),
        pytest.param(lambda: by_ffmpeg(STEREO, RATE, "aac", "mpegts"), id="ts"),
        pytest.param(lambda: by_ffmpeg(STEREO, RATE, "aac", "matroska"), id="mka"),
        pytest.param(lambda: by_ffmpeg(STEREO, RATE, "alac", "ipod", block=4096), id="alac"),
        pytest.param(
            lambda: by_ffmpeg(STEREO, RATE, "aac", "mp4", movflags="frag_keyframe+empty_moov"), id="fragments"
        ),
    ],
)
def test_an_intact_file_gets_no_warning(data: object) -> None:
    assert callable(data)
    got, recording = decoded(data())
    assert len(got) / RATE == pytest.approx(6.0, abs=0.07)
    assert recording.warnings == [] and not recording.damaged and recording.lost_s == 0
