"""What recordings may come from: odd sources and names, texts that name other files, channels that cancel."""

from __future__ import annotations

import io
import mmap
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.encoders import RATE, add_sound, by_ffmpeg, decoded, encoded, noise
from harness.sounds import music

from mert.audio.decoders import decoder_of
from mert.audio.find import BY_FFMPEG, COMMON, audio_under, listed
from mert.audio.recording import ArrayRecording, Recording
from mert.collection.plan import plan
from mert.errors import AudioError

WAVE = music(1.0, RATE, seed=5)
DATA = encoded(WAVE, RATE, "WAV")

# ----------------------------------------------------------------------------------------- texts that name other files

SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 0.0.0.0\nt=0 0\nm=audio {port} RTP/AVP 0\n"
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{url}\n#EXT-X-ENDLIST\n"
DASH = (
    '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet mimeType="audio/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
TEXTS = {
    "ffconcat": "ffconcat version 1.0\nfile neighbour.wav\n", "ffconcat-http": "ffconcat version 1.0\nfile {url}\n",
    "sdp": SDP, "hls": HLS, "hls-file": HLS.replace("{url}", "{file}"), "dash": DASH, "m3u": "{url}\n{file}\n",
    "rtsp": "rtsp://127.0.0.1:{port}/a\n", "ffmetadata": ";FFMETADATA1\ntitle=x\n", "image": "{file}",
    "smil": '<smil><body><audio src="{url}"/></body></smil>', "pls": "[playlist]\nFile1={url}\n", "lavfi": "sine=440",
}  # fmt: skip


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """A server on this machine that nobody must call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def open_sockets() -> list[str]:
    """The local addresses of all TCP and UDP sockets of this process's name space."""
    lines = [line for kind in ("udp", "udp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return sorted(line.split()[1] for line in lines)


@pytest.mark.parametrize("suffix", [".wav", ".m3u8", ".sdp", ".ffconcat", ".mpd", ".txt"])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_that_names_other_sound_is_no_recording(
    kind: str, suffix: str, tmp_path: Path, listener: socket.socket
) -> None:
    pytest.importorskip("av")
    port = listener.getsockname()[1]
    (tmp_path / "neighbour.wav").write_bytes(DATA)
    file = (tmp_path / "neighbour.wav").as_uri()
    path = tmp_path / f"song{suffix}"
    path.write_text(TEXTS[kind].format(url=f"http://127.0.0.1:{port}/a.ts", port=port + 1, file=file))
    before, started = open_sockets(), time.perf_counter()
    with pytest.raises(AudioError, match=rf"song\{suffix}: .*; "):
        decoded(path)
    assert time.perf_counter() - started < 2, "it waited for something"
    assert open_sockets() == before
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_decoder_never_learns_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    path.write_bytes(by_ffmpeg(WAVE, RATE, "aac", "ipod"))
    with path.open("rb") as file:
        decoder: Any = decoder_of(file, "song.m4a", [])
        assert str(path) not in decoder._container.name and not hasattr(decoder._view, "name")


# ------------------------------------------------------------------------------------------------------------- sources


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "songs.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.wav", "b.wav"):
            info = tarfile.TarInfo(name)
            info.size = len(DATA)
            tar.addfile(info, io.BytesIO(DATA))
    return path


def test_members_of_a_tar_that_is_a_stream_are_read(archive: Path) -> None:
    n = 0
    with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            opened = tar.extractfile(member)
            assert opened is not None
            np.testing.assert_array_equal(decoded(opened)[0], decoded(DATA)[0])
            n += 1
    assert n == 2


class OnlyRead:
    """The least that is a file."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, n: int = -1) -> bytes:
        return self._file.read(n)


def with_strides(data: bytes) -> memoryview:
    return memoryview(np.repeat(np.frombuffer(data, np.uint8), 2).tobytes())[::2]


@pytest.mark.parametrize(
    "wrap", [OnlyRead, memoryview, bytearray, lambda data: memoryview(data).cast("B"), with_strides]
)
@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3", "OGG"])
def test_anything_that_holds_bytes_is_read(wrap: Callable[[bytes], Any], container: str) -> None:
    data = encoded(WAVE, RATE, container)
    np.testing.assert_array_equal(decoded(wrap(data))[0], decoded(data)[0])


def test_a_memory_map_is_read_and_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(DATA)
    with (tmp_path / "a.wav").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        np.testing.assert_array_equal(decoded(mapped)[0], decoded(DATA)[0])
        assert mapped[:4] == b"RIFF"


@pytest.mark.parametrize("source", [io.StringIO("RIFF"), 5, None, object()])
def test_what_gives_no_bytes_is_a_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match="opened in binary mode"):
        Recording(source)


def test_a_file_without_a_name_is_no_number_in_an_error() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(AudioError, match=r"^file object \(descriptor \d+\): .*empty"):
        decoded(file)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"Dear diary\n" * 500, "it holds text"),
        (("Liebes Tagebuch, heute war es schön. " + "あ" * 500).encode() * 5, "it holds text"),
        (bytes(50_000), "it begins with zeros"),
        (b"%PDF-1.4\0\xff" * 300, "no known format begins as it does"),
        (noise(50_000), "no known format begins as it does"),
    ],
)
def test_bytes_that_are_no_sound_are_refused_with_what_they_are(data: bytes, reason: str) -> None:
    pytest.importorskip("av")
    with pytest.raises(AudioError, match=rf"not audio that can be decoded \({reason}\); check"):
        decoded(data)


class Breaks(io.BytesIO):
    """A file on a disk that fails."""

    def __init__(self, data: bytes, after: int, error: Exception) -> None:
        super().__init__(data)
        self._after, self._error = after, error

    def read(self, n: int | None = -1) -> bytes:
        if self.tell() >= self._after:
            raise self._error
        return super().read(n)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("gone"), KeyError("gone")])
@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3", "OGG", "m4a"])
@pytest.mark.parametrize("after", [0, 60_000])
def test_whatever_a_file_object_raises_is_an_audio_error(container: str, after: int, error: Exception) -> None:
    long = np.tile(WAVE, 20)
    data = by_ffmpeg(long, RATE, "aac", "ipod") if container == "m4a" else encoded(long, RATE, container)
    with pytest.raises(AudioError, match=r"file object: .*(input/output error|gone)"):
        decoded(Breaks(data, after, error))


@pytest.mark.parametrize("sr", [44_100.5, float("nan"), float("inf"), -0.5])
def test_a_sample_rate_that_is_no_whole_number_is_refused(sr: float) -> None:
    with pytest.raises(AudioError, match="a sample rate of"):
        list(ArrayRecording(WAVE, sr).blocks(24_000))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sr",
    [44_100.0, np.int64(44_100), np.float32(44_100), np.array(44_100), torch.tensor(44_100), torch.tensor(44_100.0)],
)
def test_a_sample_rate_may_be_a_whole_number_of_any_type(sr: Any) -> None:
    assert ArrayRecording(WAVE, sr).rate_hz == RATE


@pytest.mark.parametrize("sr", ["44100", None, [44_100], np.array([44_100]), torch.tensor([44_100])])
def test_a_sample_rate_that_is_no_number_is_a_type_error(sr: Any) -> None:
    with pytest.raises(TypeError, match="a sample rate is a number"):
        ArrayRecording(WAVE, sr)


@pytest.mark.parametrize("n_bytes", [251, 252, 253, 254, 255])
def test_long_names_have_outputs_of_their_own_that_fit_on_a_disk(n_bytes: int, tmp_path: Path) -> None:
    names = ["é" * 120 + letter * (n_bytes - 244) + ".wav" for letter in "ab"]
    for name in names:
        (tmp_path / name).write_bytes(DATA)
    jobs = plan([tmp_path], tmp_path / "out").jobs
    outputs = [Path(job.output).name for job in jobs]
    assert len(set(outputs)) == 2 and all(len(output.encode()) <= 255 for output in outputs)
    assert plan([tmp_path], tmp_path / "out").jobs == jobs


# ---------------------------------------------------------------------------------------------------- channels, tracks


@pytest.mark.parametrize("gain", [-1.0, -0.98, -0.8])
@pytest.mark.parametrize("make", [lambda x: x, lambda x: encoded(x, RATE, "FLAC")], ids=["array", "file"])
def test_channels_that_cancel_are_named_and_are_not_silence(gain: float, make: Callable[..., Any]) -> None:
    made = make(np.stack([WAVE, gain * WAVE], axis=1))
    recording = ArrayRecording(made, RATE) if isinstance(made, np.ndarray) else Recording(made)
    list(recording.blocks(24_000))
    assert len(recording.warnings) == 1 and "channels cancel" in recording.warnings[0] and not recording.silent


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_channels_that_cancel_most_of_the_time_are_named(share: float) -> None:
    wave = music(5.0, RATE, seed=5)
    sign = np.where(np.arange(len(wave)) < share * len(wave), -1, 1)
    recording = ArrayRecording(np.stack([wave, sign * wave]), RATE)
    list(recording.blocks(24_000))
    if share < 0.5:
        assert recording.warnings == []
    else:
        (warning,) = recording.warnings
        assert re.match(r"the channels cancel in (\d+)% of the sound: ", warning)
        assert int(warning.split("%")[0][-2:]) / 100 == pytest.approx(share, abs=0.05)


def test_a_soft_part_that_cancels_and_wide_stereo_are_nothing_to_warn_about() -> None:
    middle, side = music(5.0, RATE, seed=5), music(5.0, RATE, seed=6)
    soft = np.where(np.arange(len(side)) < 0.7 * len(side), 1e-3, 1)
    for left, right in (
        (middle + 2 * side, middle - 2 * side),
        (soft * middle, np.where(soft < 1, -1, 1) * soft * middle),
        (middle, np.roll(middle, 44)),
    ):
        recording = ArrayRecording(np.stack([left, right]) / 4, RATE)
        list(recording.blocks(24_000))
        assert recording.warnings == []


@pytest.mark.parametrize(
    "other",
    [WAVE, -0.4 * WAVE, 0 * WAVE, music(1.0, RATE, seed=6), WAVE + 0.4],
    ids=["same", "part", "none", "other", "dc"],
)
def test_other_channels_do_not_cancel(other: np.ndarray) -> None:
    recording = ArrayRecording(np.stack([WAVE, other]), RATE)
    list(recording.blocks(24_000))
    assert recording.warnings == [] and not recording.silent


def test_sixteen_channels_of_a_file_are_read() -> None:
    got, recording = decoded(encoded(np.tile(WAVE[:, None], 16), RATE, "WAV", "FLOAT"))
    np.testing.assert_allclose(got, WAVE, atol=1e-6)
    assert recording.warnings == []


def test_the_track_that_is_marked_as_default_is_the_recording() -> None:
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        streams = [output.add_stream("flac", rate=RATE, layout="mono") for _ in range(2)]
        streams[1].disposition = av.stream.Disposition.default
        for stream, wave in zip(streams, (0.5 * WAVE, WAVE), strict=True):
            add_sound(output, stream, wave[:, None], 4096)
    got, _ = decoded(file.getvalue())
    np.testing.assert_allclose(got, WAVE, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ folders, quiet


def test_folders_give_what_the_decoders_that_are_there_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {f"a{suffix}" for suffix in (*COMMON, *BY_FFMPEG)}
    for name in (*names, "notes.txt"):
        (tmp_path / name).touch()
    passed_over: Counter[str] = Counter()
    if pytest.importorskip("av"):
        assert {path.name for path in audio_under(tmp_path, passed_over)} == names
        assert listed(passed_over) == "1 .txt"
    monkeypatch.setitem(sys.modules, "av", None)
    passed_over.clear()
    assert {path.name for path in audio_under(tmp_path, passed_over)} == {f"a{suffix}" for suffix in COMMON}
    assert passed_over.keys() == {*BY_FFMPEG, ".txt"}
    assert "1 .webm" in listed(passed_over) and 'pip install -e ".[codecs]"' in listed(passed_over)


NOISY = {
    "w64 from a pipe": lambda: encoded(WAVE, RATE, "W64")[:16] + bytes(8) + encoded(WAVE, RATE, "W64")[24:],
    "mp3 with a hole": lambda: (data := encoded(np.tile(WAVE, 3), RATE, "MP3"))[:9000] + noise(5000) + data[14_000:],
    "cut mp3": lambda: encoded(WAVE, RATE, "MP3")[:6000],
    "joined mp3": lambda: encoded(WAVE, RATE, "MP3") * 2,
    "text": lambda: b"Dear diary\n" * 500,
    "cut flac": lambda: encoded(WAVE, RATE, "FLAC")[:20_000],
    "cut ogg": lambda: encoded(WAVE, RATE, "OGG")[:6000],
    "noise": lambda: noise(50_000),
}  # fmt: skip


def test_decoders_print_nothing(tmp_path: Path) -> None:
    for name, make in NOISY.items():
        (tmp_path / name).write_bytes(make())
    code = """
import sys
from pathlib import Path
from mert.audio.recording import Recording
from mert.errors import AudioError
for path in Path(sys.argv[1]).iterdir():
    try:
        list(Recording(path).blocks(24_000))
    except AudioError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout == ""
