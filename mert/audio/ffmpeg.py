"""FFmpeg by PyAV: m4a, aac and whatever else libsndfile cannot read.

A text that names other files, or addresses, is a format to FFmpeg, too: only formats that hold their sound are opened,
and nothing but the file itself.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mert.audio.contents import LEAST_S, MAX_GAP_S, Block, FileDecoder, explained, in_words, silence
from mert.audio.views import TAIL_BYTES, View, without_tags
from mert.errors import AudioError

# Demuxers of formats that hold sound, those that give its length, and those whose packets have a time.
ANNOUNCING = frozenset(
    {"ape", "asf", "avi", "caf", "dsf", "flv", "matroska", "mov", "mpc", "mpc8", "mxf", "nut", "ogg", "oma", "tak"}
    | {"tta", "w64", "wav", "wv", "xwma"}
)
TIMED = frozenset(
    {"ape", "asf", "caf", "flv", "matroska", "mov", "mpegts", "mxf", "nut", "tak", "tta", "w64", "wav", "wv"}
)
RAW = frozenset({"aac"})  # packets end to end, and FFmpeg passes over what is none without a word
CHECKED = frozenset({"flac", "mlp", "truehd", "tta", "wavpack"})  # decoders that compare checksums if asked to
DEMUXERS = """
aac ac3 ac4 act adp ads adx aea afc aiff aix amr amrnb amrwb apac apc ape apm argo_asf asf ast au avi avr bfstm binka
boa bonk brstm caf codec2 daud derf dfpwm dsf dss dts dtshd dv ea eac3 epaf flac flv fsb fwse g722 g729 genh gsm gxf
hca hcom iamf iff ilbc ircam iss iv8 kvag lc3 live_flv loas lxf matroska mca mlp mm mmf mods mov mp3 mpc mpc8 mpeg
mpegts msf mtaf musx mxf nistsphere nsp nsv nut nuv ogg oma osq paf pva pvf qcp qoa redspark rka rl2 rm rpl rsd rso
sbc scd sdns sdr2 sds shn sln smjpeg sol sox spdif svag svs swf tak truehd tta txd ty vag voc vpk vqf w64 wady wav
wavarc wsaud wsd wtv wv wve xa xmd xvag xwma
"""
OPTIONS = {"format_whitelist": ",".join(DEMUXERS.split()), "protocol_whitelist": ""}
GAP_S = 0.1  # a longer step between times of packets is sound that is missing
ROUNDED_S = 2e-3  # times may be in whole milliseconds; lengths of packets are exact
TRIES = 64  # in a row, to read on behind damage


class Bad(NamedTuple):
    """A packet that could not be decoded: why, and how many seconds it stands for."""

    error: Exception
    seconds: float


class Good(NamedTuple):
    """Samples, and when the container says that they begin, in seconds from its start; None where it does not."""

    block: Block
    time_s: float | None


class FfmpegDecoder(FileDecoder):
    """One audio track of a file: number `track`, or else the one that is marked as default."""

    def __init__(self, file: BinaryIO, name: str, warnings: list[str], track: int | None = None) -> None:
        super().__init__(name, warnings)
        import av

        self._av: Any = av
        with explained(name):
            self._view = View(file, [without_tags(file)])
            try:
                self._open(track)
            except Exception as error:
                raise self._view.error or error from None

    def _open(self, track: int | None) -> None:
        self._container: Any = self._av.open(self._view, options=OPTIONS, metadata_errors="ignore")
        tracks: list[Any] = [stream for stream in self._container.streams.audio if stream.codec_context]
        self.n_tracks = len(tracks)
        if not tracks:
            raise AudioError(self.name, "holds no audio that can be decoded", "check or convert the file")
        default = self._av.stream.Disposition.default
        best = max(tracks, key=lambda stream: (bool(stream.disposition & default), stream.channels))
        self._stream = best if track is None else tracks[track]
        self.rate_hz, self.channels = self._stream.rate or 44_100, self._stream.channels or 1
        if self._stream.codec_context.name in CHECKED:
            self._stream.codec_context.options = {"err_detect": "crccheck+explode"}
        formats = set(self._container.format.name.split(","))
        self._is_timed, self._is_raw, self._n_bytes = bool(formats & TIMED), bool(formats & RAW), 0
        self._end_s = self._announced_s()
        self.claimed_s = self._end_s if formats & ANNOUNCING and self._end_s else np.inf

    def decoded(self) -> Iterator[Block]:
        seconds, bad_s = 0.0, 0.0
        failure: Exception | None = None
        for piece in self._pieces():
            if isinstance(piece, Bad):
                failure, bad_s = failure or piece.error, bad_s + piece.seconds
                continue
            gap_s = self._gap(piece, seconds)
            if abs(gap_s - bad_s) <= ROUNDED_S:
                gap_s = bad_s
            if gap_s > (LEAST_S if bad_s else GAP_S):
                self.damage.add(seconds, gap_s, is_silence=True)
                yield from silence(gap_s, piece.block.rate_hz, piece.block.samples_NC.shape[1])
                seconds += gap_s
            else:  # a codec may put silence in the place of a packet by itself
                self.damage.add(seconds, bad_s, is_silence=self._is_timed)
            bad_s = 0.0
            seconds += len(piece.block.samples_NC) / piece.block.rate_hz
            yield piece.block
        if self._view.error:
            raise self._view.error
        if failure and not seconds:
            raise AudioError(self.name, f"nothing could be decoded ({in_words(failure)})", "check the file")
        self.damage.add(seconds, bad_s, is_silence=False)
        if self._is_raw:
            at_s = self.damage.first_s if self.damage.places else seconds
            self.damage.add(at_s, seconds * self._passed_over() / max(1, self._n_bytes), is_silence=False)

    def _passed_over(self) -> int:
        """Bytes of a raw stream that were in no packet."""
        left = self._view.size - self._n_bytes
        return left if left > TAIL_BYTES // 8 else 0

    def _announced_s(self) -> float:
        """The length of the track, or of the file where it holds nothing else; 0 where neither is known."""
        stream, container = self._stream, self._container
        if stream.duration:  # that of AVI is guessed from the bytes there are, the number of its frames is announced
            return float(
                max(stream.duration, stream.frames if "avi" in container.format.name else 0) * stream.time_base
            )
        return float(container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0

    def _gap(self, piece: Good, seconds: float) -> float:
        """Seconds that are missing in front of a piece, by its time; none beyond the end that is announced."""
        if not self._is_timed or piece.time_s is None:
            return 0.0
        piece_s = len(piece.block.samples_NC) / piece.block.rate_hz
        gap_s = min(piece.time_s, self._end_s - piece_s) - seconds
        return max(0.0, gap_s) if gap_s <= MAX_GAP_S else 0.0

    def _pieces(self) -> Iterator[Good | Bad]:
        resampler: Any = None
        form: tuple[Any, ...] = ()
        start, base = self._stream.start_time or 0, self._stream.time_base
        last_s = 0.0
        for packet in self._packets():
            if isinstance(packet, Bad):
                yield packet
                continue
            try:
                frames = packet.decode()
            except (self._av.error.FFmpegError, ValueError) as error:
                yield Bad(error, last_s or float((packet.duration or 0) * base))
                continue
            for frame in frames:
                if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
                    resampler = self._av.AudioResampler(format="flt")  # planar frames of many channels crash PyAV 18
                time_s = None if frame.pts is None else float(frame.pts * frame.time_base - start * base)
                last_s = frame.samples / frame.sample_rate
                for packed in resampler.resample(frame):
                    samples_NC = packed.to_ndarray().reshape(-1, packed.layout.nb_channels).copy()
                    yield Good(Block(packed.sample_rate, samples_NC), time_s)

    def _packets(self) -> Iterator[Any]:
        """The packets of the track; FFmpeg is asked again where it stops in the midst of a file."""
        failures = 0
        packets = self._container.demux(self._stream)
        while failures < TRIES:
            try:
                packet = next(packets)
            except (StopIteration, self._av.error.EOFError):
                return
            except self._av.error.FFmpegError as error:
                failures += 1
                packets = self._container.demux(self._stream)
                yield Bad(error, 0.0)
            else:
                failures, self._n_bytes = 0, self._n_bytes + packet.size
                yield packet
