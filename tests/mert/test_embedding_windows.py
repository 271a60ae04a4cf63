"""The frame clock: what each window reads and gives, and when each frame is. Oracles are restated here."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from harness.sounds import music
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mert.audio.recording import resampled
from mert.embedding.windows import Clock, Span, Windowing, cut
from mert.errors import AudioError
from mert.models.config import base_95m, large_330m, nano_1

CLOCK = Clock(24_000, 320, 400, 200, 400)
SMALL = Clock(100, 3, 5, 2.5, 5)  # the same rules, in numbers that hypothesis can exhaust
WINDOWINGS = st.integers(1, 12).flatmap(lambda frames: st.builds(Windowing, st.just(frames), st.integers(1, frames)))


def in_blocks(wave: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """The wave in blocks of these sizes, over and over."""
    start = i = 0
    while start < len(wave):
        size = sizes[i % len(sizes)]
        yield wave[start : start + size]
        start, i = start + size, i + 1


# ------------------------------------------------------------------------------------------------------ clock


@pytest.mark.parametrize(
    ("n_samples", "n_frames"),
    [
        (0, 0), (1, 0), (399, 0), (400, 1), (719, 1), (720, 2), (24_000, 74), (72_000, 224), (120_000, 374),
        (122_880, 383),
    ],
)  # fmt: skip
def test_frame_counts_are_those_of_the_published_models(n_samples: int, n_frames: int) -> None:
    for config in (nano_1(), base_95m(), large_330m()):
        assert Clock.of(config) == CLOCK
        assert CLOCK.n_frames(n_samples) == n_frames


@given(st.integers(0, 10**10))
def test_frames_are_counted_as_the_convolutions_do_one_after_another(n_samples: int) -> None:
    n = n_samples
    for kernel, stride in zip(base_95m().conv_kernels, base_95m().conv_strides, strict=True):
        n = max(0, (n - kernel) // stride + 1)
    assert CLOCK.n_frames(n_samples) == n


@given(st.integers(1, 10**8))
def test_a_window_reads_the_receptive_field_of_its_frames_and_no_sample_more(n_frames: int) -> None:
    n_samples = CLOCK.n_samples(n_frames)
    assert n_samples == 320 * (n_frames - 1) + 400
    assert CLOCK.n_frames(n_samples) == n_frames and CLOCK.n_frames(n_samples - 1) == n_frames - 1


def test_five_seconds_are_374_frames_from_119760_samples() -> None:
    windowing = Windowing.of(CLOCK, 5.0, None, None)
    assert windowing == Windowing(374, 374) and CLOCK.n_samples(374) == 119_760
    (first, wave), *_ = cut([np.arange(240_000)], CLOCK, windowing, "a")
    assert first == Span(0, 374, 0, 374) and len(wave) == 119_760


@given(start=st.integers(0, 10**7), count=st.integers(0, 50))
def test_times_are_the_centres_of_the_receptive_fields(start: int, count: int) -> None:
    times = CLOCK.times(start, start + count)
    assert times.dtype == np.float64 and times.shape == (count,)
    for t, time in enumerate(times, start):
        assert abs(Fraction(time) - Fraction(320 * t + 200, 24_000)) < Fraction(1, 10**6)


@pytest.mark.parametrize("seconds", [1, 3600, 24 * 3600])
@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 96_000])
def test_the_clock_does_not_drift_in_24_hours_at_any_rate(rate_hz: int, seconds: int) -> None:
    n_samples = seconds * rate_hz * 24_000 // rate_hz  # what the resampler gives, see the next test
    n_frames = CLOCK.n_frames(n_samples)
    assert n_frames == (seconds * 24_000 - 400) // 320 + 1
    times = CLOCK.times(0, n_frames)
    last = Fraction(320 * (n_frames - 1) + 200, 24_000)
    assert abs(Fraction(float(times[-1])) - last) < Fraction(1, 10**6)
    assert seconds - Fraction(400 + 320, 24_000) < last < seconds
    steps = np.diff(times)
    assert steps.min() > 0 and np.abs(steps - 320 / 24_000).max() < 1e-9


@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 96_000])
def test_the_resampler_gives_as_many_samples_as_the_clock_counts(rate_hz: int) -> None:
    block = np.zeros(rate_hz // 10, np.float32)
    n = sum(len(out) for out in resampled(iter([block] * 600), rate_hz, 24_000))
    assert n == 60 * 24_000


@settings(max_examples=50, deadline=None)
@given(windowing=WINDOWINGS, n_frames=st.integers(1, 60))
def test_frames_of_any_windowing_lie_on_one_clock(windowing: Windowing, n_frames: int) -> None:
    times = np.concatenate([SMALL.times(s.keep_from, s.keep_to) for s in windowing.plan(n_frames)])
    np.testing.assert_array_equal(times, SMALL.times(0, n_frames))


# ------------------------------------------------------------------------------------------------------- plan


@given(windowing=WINDOWINGS, n_frames=st.integers(0, 90))
def test_the_windows_give_every_frame_once_and_read_only_what_exists(windowing: Windowing, n_frames: int) -> None:
    spans = windowing.plan(n_frames)
    given_frames = [t for span in spans for t in range(span.keep_from, span.keep_to)]
    assert given_frames == list(range(n_frames))
    for span in spans:
        assert span.start >= 0 and span.start + span.frames <= n_frames
        assert span.start <= span.keep_from < span.keep_to <= span.start + span.frames
        assert span.frames == min(windowing.frames or 0, n_frames)


@given(windowing=WINDOWINGS, n_frames=st.integers(1, 90))
def test_a_frame_comes_from_the_window_whose_centre_is_nearest(windowing: Windowing, n_frames: int) -> None:
    frames, hop = windowing.frames or 0, windowing.hop or 0
    assume(n_frames >= frames)
    starts = range(0, n_frames - frames + 1, hop)  # all regular windows
    source = {t: span.start for span in windowing.plan(n_frames) for t in range(span.keep_from, span.keep_to)}
    for t in range(n_frames):
        reading = [start for start in starts if start <= t < start + frames]
        if reading:  # min takes the earlier of two as near
            assert source[t] == min(reading, key=lambda start: abs(2 * (t - start) - (frames - 1)))
        else:
            assert source[t] == n_frames - frames


@given(windowing=WINDOWINGS, n_frames=st.integers(1, 90))
def test_the_last_window_ends_with_the_recording_and_gives_only_new_frames(windowing: Windowing, n_frames: int) -> None:
    frames, hop = windowing.frames or 0, windowing.hop or 0
    spans = windowing.plan(n_frames)
    if n_frames <= frames:
        assert spans == [Span(0, n_frames, 0, n_frames)]
        return
    left = (n_frames - frames) % hop
    if left:
        assert spans[-1] == Span(n_frames - frames, frames, n_frames - left, n_frames)
        spans = spans[:-1]
    assert [span.start for span in spans] == list(range(0, n_frames - frames + 1, hop))
    assert spans[-1].keep_to == spans[-1].start + frames


def test_whole_is_one_window_of_everything() -> None:
    assert Windowing(None, None).plan(12_345) == [Span(0, 12_345, 0, 12_345)]


def test_nothing_has_no_window() -> None:
    assert Windowing(4, 2).plan(0) == Windowing(None, None).plan(0) == []


# -------------------------------------------------------------------------------------------------- of seconds


@given(window_s=st.floats(400 / 24_000, 60), share=st.floats(0.01, 1))
def test_seconds_become_the_frames_that_fit_and_the_nearest_whole_hop(window_s: float, share: float) -> None:
    frames = (round(window_s * 24_000) - 400) // 320 + 1
    hop_s = share * frames / 75
    hop = round(hop_s * 75)
    assume(hop >= 1 and abs(hop_s * 75 % 1 - 0.5) > 1e-6)
    assert Windowing.of(CLOCK, 5.0, window_s, hop_s) == Windowing(frames, hop)
    assert Windowing.of(CLOCK, window_s, None, None) == Windowing(frames, frames)


@pytest.mark.parametrize("window", [0, -1.0, 399 / 24_000, float("nan"), float("inf"), "all", "5"])
def test_windows_without_a_frame_are_a_value_error(window: float | str) -> None:
    with pytest.raises(ValueError, match="window"):
        Windowing.of(CLOCK, 5.0, window, None)


@pytest.mark.parametrize("hop", [0, -1.0, 0.006, 5.1, 1e9, float("nan"), float("inf"), float("-inf")])
def test_hops_that_stand_still_or_leave_gaps_are_a_value_error(hop: float) -> None:
    with pytest.raises(ValueError):
        Windowing.of(CLOCK, 5.0, 5.0, hop)


def test_whole_has_no_hop() -> None:
    assert Windowing.of(CLOCK, 5.0, "whole", None) == Windowing(None, None)
    with pytest.raises(ValueError, match="hop"):
        Windowing.of(CLOCK, 5.0, "whole", 1.0)


# -------------------------------------------------------------------------------------------------------- cut


@settings(max_examples=200, deadline=None)
@given(
    windowing=st.one_of(WINDOWINGS, st.just(Windowing(None, None))),
    n_samples=st.integers(5, 250),
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any),
)
def test_cutting_blocks_gives_the_plan_with_the_samples_each_window_reads(
    windowing: Windowing, n_samples: int, sizes: list[int]
) -> None:
    wave = np.arange(n_samples, dtype=np.float32)
    got = list(cut(in_blocks(wave, sizes), SMALL, windowing, "a"))
    assert [span for span, _ in got] == windowing.plan(SMALL.n_frames(n_samples))
    for span, samples in got:
        whole = windowing.frames is None
        wanted = wave if whole else wave[3 * span.start : 3 * span.start + 3 * (span.frames - 1) + 5]
        np.testing.assert_array_equal(samples, wanted)


@pytest.mark.parametrize("n_samples", [0, 1, 399])
@pytest.mark.parametrize("windowing", [Windowing(4, 4), Windowing(4, 2), Windowing(None, None)])
def test_less_than_one_frame_is_an_error_that_names_the_least(n_samples: int, windowing: Windowing) -> None:
    with pytest.raises(AudioError, match=rf"a\.wav: {n_samples} samples .*give at least 400 samples"):
        list(cut([np.zeros(n_samples, np.float32)], CLOCK, windowing, "a.wav"))
    with pytest.raises(AudioError, match=r"a\.wav: 0 samples"):
        list(cut([], CLOCK, windowing, "a.wav"))


@pytest.mark.parametrize("windowing", [Windowing(374, 374), Windowing(374, 187), Windowing(374, 1)])
def test_a_window_is_given_as_soon_as_it_can_be_known(windowing: Windowing) -> None:
    """Not later than one hop behind its end: a live stream does not wait."""
    read = 0

    def live() -> Iterator[np.ndarray]:
        nonlocal read
        for block in in_blocks(music(8.0), [1000]):
            read += len(block)
            yield block

    overlap = windowing.hop != windowing.frames
    for i, (span, _) in enumerate(cut(live(), CLOCK, windowing, "live")):
        if i == 20 or CLOCK.n_frames(8 * 24_000) - span.start - span.frames <= (windowing.hop or 0):
            break
        needed = CLOCK.n_samples(span.start + span.frames + overlap * (windowing.hop or 0))
        assert needed <= read < needed + 1000


@pytest.mark.parametrize("hop", [374, 187, 40])
def test_memory_does_not_grow_with_the_length_of_a_stream(hop: int) -> None:
    def stream() -> Iterator[np.ndarray]:
        for _ in range(1200):
            yield np.zeros(2400, np.float32)

    tracemalloc.start()
    try:
        n = sum(span.keep_to - span.keep_from for span, _ in cut(stream(), CLOCK, Windowing(374, hop), "a"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == CLOCK.n_frames(1200 * 2400)
    # Two windows are held; while they are put in one piece, twice that. The whole stream is 24 windows.
    assert peak < 6 * 4 * 119_760
