"""Beats: the DBN against madmom's outputs and a search through every state, scores against mir_eval, the fit."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import mir_eval
import numpy as np
import pytest
import torch
from harness.bench_runs import metronome, pooled_f

from mert.describe.beats import frame_rate, peak_beats
from mert.describe.dbn import DbnBeats
from mert.embedding.windows import Clock
from probes import fit as sequence
from probes.beats.probe import fit_one
from probes.beats.tracking import BeatScores, Tracking, beat_scores, beat_targets
from probes.fit import Policy
from probes.heads import FrameHead

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "beat_dbn.json").read_text())
CLOCK = Clock(24_000, 320, 400, 200, 400)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['bpm']} BPM at {case['fps']} fps")
def test_dbn_equals_madmom_exactly(case: dict) -> None:
    assert DbnBeats(case["fps"])(np.array(case["activations"])).tolist() == case["beats"]


def beats_state_by_state(dbn: DbnBeats, activation_T: np.ndarray) -> np.ndarray:
    """The same model in its textbook form: a Viterbi table over every state, one step a frame."""
    states = [(k, p) for k, i in enumerate(dbn.intervals) for p in range(i)]
    number = {state: n for n, state in enumerate(states)}
    before = [
        [(number[a, i - 1], dbn.transitions[a, k]) for a, i in enumerate(dbn.intervals)] if p == 0
        else [(number[k, p - 1], 0.0)]
        for k, p in states
    ]  # fmt: skip
    in_beat = np.array([p / dbn.intervals[k] < 1 / dbn.observation_lambda for k, p in states])
    score, pointers = np.zeros(len(states)), []
    for value in np.clip(activation_T, 1e-7, 1 - 1e-7):
        choices = [max(((score[s] + log_p, -s) for s, log_p in options)) for options in before]
        pointers.append([-s for _, s in choices])
        emitted = np.where(in_beat, np.log(value), np.log((1 - value) / (dbn.observation_lambda - 1)))
        score = np.array([total for total, _ in choices]) + emitted
    path = [int(score.argmax())]
    for pointer in pointers[:0:-1]:
        path.append(pointer[path[-1]])
    on_T = in_beat[path[::-1]]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], on_T, [0]])))
    found = [first + activation_T[first:end].argmax() for first, end in edges.reshape(-1, 2)]
    return np.array(found) / dbn.fps


@pytest.mark.parametrize("seed", range(6))
def test_dbn_from_beat_to_beat_equals_dbn_from_state_to_state(seed: int) -> None:
    random = np.random.default_rng(seed)
    dbn = DbnBeats(20, min_bpm=50, max_bpm=220, transition_lambda=(5, 100)[seed % 2])
    activation_T = random.random(int(random.integers(1, 180))) ** 3  # also shorter than one interval
    np.testing.assert_array_equal(dbn(activation_T), beats_state_by_state(dbn, activation_T))


def test_dbn_of_sure_silent_and_wrong_activations() -> None:
    sure_T = np.zeros(300)
    sure_T[::30] = 1.0
    assert len(DbnBeats(75)(sure_T)) == 10  # logarithms of 0 and 1 stay finite
    assert DbnBeats(75)(np.zeros(300)).size == DbnBeats(75)(np.zeros(0)).size == 0
    for wrong in (np.array([0.1, np.nan]), np.array([0.1, 1.1]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="0 to 1"):
            DbnBeats(75)(wrong)
    with pytest.raises(ValueError, match="tempi"):
        DbnBeats(75, min_bpm=200, max_bpm=100)
    with pytest.raises(ValueError, match="frames a second"):
        DbnBeats(1)


def test_peaks_are_five_frames_apart_at_75_fps_and_three_at_50() -> None:
    activation_T = np.zeros(40)
    activation_T[[10, 14, 20, 30]] = 0.8, 0.7, 0.6, 0.5
    assert np.rint(peak_beats(activation_T, 75) * 75).tolist() == [10, 20]  # 14 is in the reach of 10; 0.5 is no beat
    assert np.rint(peak_beats(activation_T, 50) * 50).tolist() == [10, 14, 20]
    assert peak_beats(np.zeros(40), 75).size == 0


def test_targets_stand_at_the_centres_of_the_frames() -> None:
    times_T = CLOCK.times(0, 100)
    targets_T = beat_targets(np.array([(320 * 10 + 200) / 24_000, (320 * 13 + 359) / 24_000, 0.0, -0.2, 9.0]), times_T)
    wanted = np.zeros(100)
    wanted[8:16] = 0.25, 0.5, 1, 0.5, 0.5, 1, 0.5, 0.25
    wanted[:2] = 0  # 0.0 s is 0.6 of a frame before the first centre
    np.testing.assert_array_equal(targets_T, wanted)
    assert frame_rate(times_T) == 75


@pytest.mark.parametrize(("off_s", "wanted"), [(0.069, 1.0), (0.071, 0.0), (-0.069, 1.0)])
def test_the_tolerance_is_70_ms(off_s: float, wanted: float) -> None:
    reference = np.arange(1, 20) * 0.5
    assert beat_scores(reference, reference + off_s).f_measure == wanted
    assert mir_eval.beat.f_measure(reference, reference + off_s) == wanted


def test_scores_equal_mir_eval() -> None:
    random = np.random.default_rng(0)
    scores = []
    for _ in range(30):
        reference, estimate = (np.sort(random.uniform(0, 30, random.integers(1, 60))) for _ in range(2))
        for trim_s in (0.0, 5.0):
            trimmed = [mir_eval.beat.trim_beats(times, trim_s) for times in (reference, estimate)]
            got = beat_scores(reference, estimate, tolerance_s=0.05, trim_s=trim_s)
            if min(map(len, trimmed)):
                assert got.f_measure == pytest.approx(mir_eval.beat.f_measure(*trimmed, f_measure_threshold=0.05))
            assert (got.n_reference, got.n_estimate) == tuple(map(len, trimmed))
        scores.append(got)
    matched = sum(score.matched for score in scores)
    precision, recall = (matched / sum(getattr(s, n) for s in scores) for n in ("n_estimate", "n_reference"))
    assert pooled_f(scores) == pytest.approx(2 * precision * recall / (precision + recall))


def test_empty_estimates_are_quiet_zeros() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert beat_scores(np.array([1.0]), np.zeros(0)) == BeatScores(0.0, 0, 1, 0)
        assert beat_scores(np.zeros(0), np.zeros(0)).f_measure == 0
        assert pooled_f([]) == 0


class Store:
    """Clips of noise features; in layer 1 the first feature holds the answer, in layer 0 there is none."""

    def __init__(self, n_clips: int, seed: int, answer: bool = True) -> None:
        random = np.random.default_rng(seed)
        self.beats, self._frames = {}, {}
        self.times_T = CLOCK.times(0, 900)
        for clip in range(n_clips):
            period = 60 / random.uniform(70, 180)
            beats_s = np.arange(random.uniform(0, period), self.times_T[-1], period)
            frames = random.standard_normal((3, len(self.times_T), 6)).astype(np.float32)
            answer_T = beat_targets(beats_s, self.times_T)
            frames[1, :, 0] += 8 * (answer_T if answer else random.permutation(answer_T))
            self.beats[f"{seed}-{clip}"], self._frames[f"{seed}-{clip}"] = beats_s, frames

    def frames(self, clip_id: str, layer: int | slice) -> np.ndarray:
        return self._frames[clip_id][layer]

    def times(self, clip_id: str) -> np.ndarray:
        return self.times_T


def fit(store: Store, layer: int | slice, seed: int = 0, epochs: int = 60):
    half = len(store.beats) // 2
    pairs = list(store.beats.items())
    return fit_one(store, dict(pairs[:half]), dict(pairs[half:]), layer=layer, lr=1e-2, seed=seed, batch_clips=2,
                   crop_s=6.0, policy=Policy(max_epochs=epochs))  # fmt: skip


def test_floor_and_ceiling() -> None:
    store = Store(20, seed=1)
    tracked = [Tracking().score(b, beat_targets(b, store.times_T), store.times_T) for b in store.beats.values()]
    floor = [beat_scores(b, metronome(12.0)) for b in store.beats.values()]
    assert np.mean([s.f_measure for s in tracked]) >= 0.95 > 0.5 > np.mean([s.f_measure for s in floor])


@pytest.mark.parametrize("layer", [1, slice(None)], ids=["one layer", "all layers"])
def test_a_head_finds_beats_that_are_in_its_features(layer: int | slice) -> None:
    fitted = fit(Store(12, seed=2), layer)
    assert fitted.valid >= 0.95 and fitted.epoch >= 1
    fresh = Store(4, seed=3)
    scores = [Tracking().score(b, fitted.head.activation(fresh.frames(c, layer)), fresh.times_T)
              for c, b in fresh.beats.items()]  # fmt: skip
    assert np.mean([s.f_measure for s in scores]) >= 0.95
    if isinstance(layer, slice):
        assert int(fitted.head.weights["layers"].argmax()) == 1


def test_a_head_finds_no_beats_in_shuffled_features() -> None:
    assert fit(Store(12, seed=2, answer=False), 1, epochs=8).valid < 0.7


def test_fits_repeat_bit_by_bit_and_leave_torchs_numbers_alone() -> None:
    store = Store(6, seed=4)
    state = torch.get_rng_state()
    one, same, other = (fit(store, slice(None), seed, epochs=3) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.head.parameters(), same.head.parameters(), strict=True))
    assert (one.valid, one.epoch) == (same.valid, same.epoch)
    assert not torch.equal(one.head.weights["w2"], other.head.weights["w2"])


def test_a_fit_that_diverges_says_so() -> None:
    store = Store(4, seed=5)
    for frames in store._frames.values():
        frames[1, 0, 0] = np.nan
    fitted = fit(store, 1, epochs=3)
    assert (fitted.valid, fitted.epoch) == (0.0, 0)


def test_frames_are_judged_one_by_one() -> None:
    torch.manual_seed(0)
    frames = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    head = FrameHead.for_frames(frames)
    np.testing.assert_allclose(head.activation(frames)[::-1], head.activation(frames[::-1].copy()), rtol=1e-6)


def test_training_keeps_the_best_epoch_halves_the_rate_and_stops() -> None:
    model = torch.nn.Linear(1, 1)
    rates, scores = [], iter([0.1, 0.5, 0.5, 0.4, 0.3, 0.2, 0.9])

    def epoch(optimizer: torch.optim.Optimizer) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        with torch.no_grad():
            model.weight.fill_(len(rates))

    best = sequence.train(model, 1.0, Policy(patience=(2, 4)), epoch, lambda: next(scores))
    assert best == (0.5, 2) and model.weight.item() == 2
    assert rates == [1, 1, 1, 1, 1, 0.5]
