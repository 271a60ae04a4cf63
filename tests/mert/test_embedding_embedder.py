"""Embedder: the promises of `embed`, `embed_many` and `stream`, with the model itself as the oracle."""

from __future__ import annotations

import copy
import gc
import io
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from harness.sounds import all_close, close, music, tiny_embedder
from hypothesis import given, settings
from hypothesis import strategies as st

import mert.embedding.embedder
from mert.embedding.embedder import Embedder
from mert.embedding.features import Features
from mert.embedding.load import random_model
from mert.errors import AudioError, MertError, OutputError
from mert.weights.checkpoints import digest

LAYERS = ("embed", "layer01", "layer02", "layer03")


def flac(wave: np.ndarray, rate_hz: int = 24_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format="FLAC", subtype="PCM_24")
    return file.getvalue()


def by_hand(m: Embedder, wave: np.ndarray, normalize: bool = True) -> np.ndarray:
    """What the model makes of exactly these samples: [L, T, D]."""
    if normalize:
        wave64 = wave.astype(np.float64)
        wave = ((wave64 - wave64.mean()) / np.sqrt(wave64.var() + 1e-7)).astype(np.float32)
    with torch.inference_mode():
        return torch.stack(list(m.model(torch.from_numpy(np.ascontiguousarray(wave))[None])))[:, 0].numpy()


def together(parts: Iterator[Features]) -> Features:
    pieces = list(parts)
    times = np.concatenate([piece.times for piece in pieces if piece.times is not None])
    return Features(
        np.concatenate([piece.values for piece in pieces], axis=1), times, pieces[0].layers, pieces[-1].meta
    )


def in_blocks(wave: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    start = i = 0
    while start < len(wave):
        yield wave[start : start + sizes[i % len(sizes)]]
        start, i = start + sizes[i % len(sizes)], i + 1


# ------------------------------------------------------------------------------------------------- one recording


def test_the_properties_are_those_of_the_model(tiny: Embedder) -> None:
    assert (tiny.sample_rate, tiny.frame_rate, tiny.dim, tiny.window_s) == (24_000, 75.0, 32, 1.0)
    assert tiny.layer_names == LAYERS and tiny.model is tiny.runner.model
    assert isinstance(tiny.model, torch.nn.Module) and not tiny.model.training


@pytest.mark.parametrize(("n_samples", "n_frames"), [(400, 1), (719, 1), (720, 2), (23_999, 74), (24_000, 74)])
def test_a_clip_of_up_to_a_window_is_the_model_on_the_samples_its_frames_read(
    tiny: Embedder, n_samples: int, n_frames: int
) -> None:
    wave = music(1.0)[:n_samples]
    features = tiny.embed(wave, sr=24_000)
    assert features.values.shape == (4, n_frames, 32) and features.layers == LAYERS
    assert all_close(features.values, by_hand(tiny, wave[: 320 * (n_frames - 1) + 400]))
    np.testing.assert_allclose(features.times, (320 * np.arange(n_frames) + 200) / 24_000, rtol=1e-15)


@pytest.mark.parametrize("n_samples", [0, 1, 399])
def test_less_than_one_frame_is_the_same_error_for_arrays_files_streams_and_lists(
    tiny: Embedder, n_samples: int, write: Callable[..., Path]
) -> None:
    wave = music(1.0)[:n_samples]
    path = write("short.wav", wave)
    attempts: list[Callable[[], object]] = [
        lambda: tiny.embed(wave, sr=24_000),
        lambda: tiny.embed(path),
        lambda: tiny.embed(path, window="whole", layers=[-1]),
        lambda: tiny.embed(path, pool="mean"),
        lambda: list(tiny.stream([wave], sr=24_000)),
        lambda: list(tiny.embed_many([path])),
    ]
    for attempt in attempts:
        with pytest.raises(AudioError, match=rf"{n_samples} samples .*at least 400 samples"):
            attempt()


def test_windows_of_a_longer_clip_are_each_the_model_on_their_own_samples(tiny: Embedder) -> None:
    wave = music(3.3)
    values = tiny.embed(wave, sr=24_000).values
    n_frames = (len(wave) - 400) // 320 + 1
    window = 320 * 73 + 400
    assert values.shape[1] == n_frames
    for start in range(0, n_frames - 74, 74):
        assert all_close(values[:, start : start + 74], by_hand(tiny, wave[320 * start :][:window]))
    new = n_frames % 74
    assert 0 < new < 74
    assert all_close(values[:, -new:], by_hand(tiny, wave[320 * (n_frames - 74) :][:window])[:, -new:])


def test_with_overlap_a_frame_comes_from_the_nearest_window(tiny: Embedder) -> None:
    wave = music(2.5)
    features = tiny.embed(wave, sr=24_000, window=0.5, hop=0.2)
    frames, hop, n_frames = (12_000 - 400) // 320 + 1, 15, (len(wave) - 400) // 320 + 1
    assert (features.meta["window_frames"], features.meta["hop_frames"]) == (frames, hop)
    starts = range(0, n_frames - frames + 1, hop)
    alone = {start: by_hand(tiny, wave[320 * start :][: 320 * (frames - 1) + 400]) for start in starts}
    for t in range(starts[-1] + frames):
        nearest = min((s for s in starts if s <= t < s + frames), key=lambda s: abs(2 * (t - s) - frames + 1))
        assert close(features.values[:, t], alone[nearest][:, t - nearest])


def test_whole_is_the_model_on_all_samples_untrimmed(tiny: Embedder) -> None:
    wave = music(2.0)[:-77]
    assert (len(wave) - 400) % 320  # samples behind the last frame, which normalisation sees
    features = tiny.embed(wave, sr=24_000, window="whole")
    assert all_close(features.values, by_hand(tiny, wave))
    assert features.meta["window"] == "whole" and features.meta["hop"] is None


@pytest.mark.parametrize("normalize", [True, False])
def test_windows_are_normalised_if_the_checkpoint_says_so(normalize: bool) -> None:
    m = tiny_embedder(normalize=normalize, norm_eps=1e-5)
    wave = 0.01 * music(0.9) + np.float32(0.3)
    features = m.embed(wave, sr=24_000)
    read = wave[: m.clock.n_samples(features.values.shape[1])]
    assert all_close(features.values, by_hand(m, read, normalize))
    assert features.meta["normalize"] is normalize


def test_gain_and_offset_make_no_difference_where_windows_are_normalised(tiny: Embedder) -> None:
    wave = music(1.5)
    changed = 0.5 * wave + np.float32(0.25)
    got, wanted = (tiny.embed(w, sr=24_000).values for w in (changed, wave))
    assert np.abs(got - wanted).max() < 1e-3


# ---------------------------------------------------------------------------------------------------- sources


def test_paths_bytes_files_and_arrays_give_the_same(tiny: Embedder, write: Callable[..., Path]) -> None:
    path = write("a.flac", music(1.2, 44_100), 44_100)
    wave, _ = soundfile.read(path, dtype="float32")
    wanted = tiny.embed(wave, sr=44_100).values
    data = path.read_bytes()
    with path.open("rb") as file:
        for source in (path, str(path), data, bytearray(data), io.BytesIO(data), file):
            np.testing.assert_array_equal(tiny.embed(source).values, wanted)


class Pipe(io.RawIOBase):
    """Bytes that can be read once, forwards."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._data.readinto(buffer)


def test_a_file_that_cannot_be_rewound_is_read(tiny: Embedder) -> None:
    data = flac(music(1.2))
    np.testing.assert_array_equal(tiny.embed(Pipe(data)).values, tiny.embed(data).values)
    gc.collect()  # a copy that is not closed is a ResourceWarning


def test_a_file_that_cannot_be_rewound_may_announce_any_length(tiny: Embedder) -> None:
    data = flac(music(1.2))
    bits = int.from_bytes(data[18:26], "big") | ((1 << 36) - 1)
    lie = data[:18] + bits.to_bytes(8, "big") + data[26:]
    wanted = tiny.embed(data).values
    with pytest.warns(UserWarning, match="is damaged: the header announces"):
        features = tiny.embed(lie)
    np.testing.assert_array_equal(features.values, wanted)
    assert len(features.meta["warnings"]) == 1 and "announces" in features.meta["warnings"][0]
    with pytest.warns(UserWarning, match="is damaged: the header announces"):
        np.testing.assert_array_equal(tiny.embed(Pipe(lie)).values, wanted)
    gc.collect()


def test_a_recording_of_which_sound_is_missing_is_warned_of_by_every_function(tiny: Embedder, tmp_path: Path) -> None:
    """`encode` gives nothing but vectors: a warning is all that can say it there."""
    whole, cut = flac(music(2.0)), tmp_path / "cut.flac"
    (tmp_path / "whole.flac").write_bytes(whole)
    cut.write_bytes(whole[: len(whole) // 2])
    functions: tuple[Callable[[Path], object], ...] = (
        tiny.embed, lambda path: list(tiny.embed_many([path], pool="mean")), lambda path: tiny.encode([path]),
    )  # fmt: skip
    for function in functions:
        with pytest.warns(UserWarning, match=r"cut\.flac is damaged: .*1?\.\d+ s could be decoded"):
            function(cut)
        function(tmp_path / "whole.flac")


def test_a_wrong_level_is_warned_of(tiny: Embedder) -> None:
    wave_N = music(1.0)
    with pytest.warns(UserWarning, match="array: samples reach about .* divide samples of 16 bits by 32768"):
        tiny.encode([wave_N * 32_768], sr=24_000)
    with pytest.warns(UserWarning, match="array: .*cancel"):
        tiny.embed(np.stack([wave_N, -wave_N]), sr=24_000)


@pytest.mark.parametrize(("call", "message"), [
    (lambda m: m.embed(["a.wav", "b.wav"]), "embed takes one recording, .* embed_many takes several"),
    (lambda m: m.embed((np.zeros(9), 24_000)), "embed takes one recording, .* embed_many takes several"),
    (lambda m: m.embed(np.zeros(9)), "an array needs its sample rate"),
    (lambda m: m.embed("a.wav", layers=[]), "layers is empty: name some of embed, layer01"),
    (lambda m: m.embed("a.wav", layers=[1, "layer01"]), "hold layer01 twice"),
    (lambda m: m.embed("a.wav", window=0.001), r"give at least 0\.0166667 s \(400 samples\)"),
    (lambda m: list(m.embed_many([], errors="ignore")), "errors is \"raise\" or \"skip\", not 'ignore'"),
])  # fmt: skip
def test_what_cannot_be_asked_for_names_what_can(
    tiny: Embedder, call: Callable[[Embedder], object], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(tiny)


def test_integers_are_the_floats_they_stand_for(tiny: Embedder) -> None:
    wave = np.round(music(1.2) * 2**15).astype(np.int16)
    wanted = tiny.embed(wave.astype(np.float32) / 2**15, sr=24_000).values
    np.testing.assert_array_equal(tiny.embed(wave, sr=24_000).values, wanted)


def test_stereo_either_way_round_is_its_mean(tiny: Embedder) -> None:
    left, right = music(1.2, seed=1), music(1.2, seed=2)
    wanted = tiny.embed((left + right) / 2, sr=24_000).values
    for stereo in (np.stack([left, right]), np.stack([left, right], axis=1)):
        assert all_close(tiny.embed(stereo, sr=24_000).values, wanted)


def test_lists_and_float64_are_arrays_too(tiny: Embedder) -> None:
    wave = music(0.2)
    wanted = tiny.embed(wave, sr=24_000).values
    np.testing.assert_array_equal(tiny.embed(wave.astype(np.float64), sr=24_000).values, wanted)
    np.testing.assert_array_equal(tiny.embed(wave.tolist(), sr=24_000).values, wanted)
    np.testing.assert_array_equal(tiny.embed(torch.from_numpy(wave), sr=24_000).values, wanted)


def test_an_array_without_its_rate_and_a_file_with_one_are_type_errors(
    tiny: Embedder, write: Callable[..., Path]
) -> None:
    with pytest.raises(TypeError, match="sample rate"):
        tiny.embed(music(1.0))
    for source in (write("a.wav", music(1.0)), b"RIFF", io.BytesIO()):
        with pytest.raises(TypeError, match="sr="):
            tiny.embed(source, sr=24_000)
    with pytest.raises(TypeError, match="sr"):
        tiny.stream([music(1.0)])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="sample rate"):
        list(tiny.embed_many([music(1.0)]))  # type: ignore[list-item]


@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 48_000, 96_000])
def test_the_rate_of_the_file_hardly_matters(tiny: Embedder, rate_hz: int) -> None:
    t = np.arange(rate_hz) / rate_hz
    wave = sum(np.sin(2 * np.pi * hz * t) for hz in (220, 554.4, 1318.5)).astype(np.float32) / 4
    reference = sum(np.sin(2 * np.pi * hz * np.arange(24_000) / 24_000) for hz in (220, 554.4, 1318.5)) / 4
    got = tiny.embed(wave, sr=rate_hz).values[-1][5:-5]
    wanted = tiny.embed(reference, sr=24_000).values[-1][5:-5]
    assert np.sqrt(np.mean((got - wanted) ** 2)) < 0.05 * np.sqrt(np.mean(wanted**2))


# ------------------------------------------------------------------------------------------- layers, pool, meta


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("all", LAYERS),
        ("embed", ("embed",)),
        (0, ("embed",)),
        (-1, ("layer03",)),
        (["layer02", "embed"], ("layer02", "embed")),
        ([-1, 0, "layer01"], ("layer03", "embed", "layer01")),
        (np.array([1, 2]), ("layer01", "layer02")),
    ],
)
def test_layers_are_given_in_the_order_asked_for(tiny: Embedder, asked: object, names: tuple[str, ...]) -> None:
    wave = music(0.5)
    everything = tiny.embed(wave, sr=24_000)
    some = tiny.embed(wave, sr=24_000, layers=asked)  # type: ignore[arg-type]
    assert some.layers == names
    for name in names:
        assert close(some.layer(name), everything.layer(name))


@pytest.mark.parametrize("asked", [4, -5, "layer04", "layer1", [], [0, 0], [0, "embed"], [-1, 3], [1.5], [None]])
def test_layers_that_do_not_exist_or_come_twice_are_a_value_error(tiny: Embedder, asked: object) -> None:
    with pytest.raises(ValueError, match="layer"):
        tiny.embed(music(0.5), sr=24_000, layers=asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"pool": "max"}, {"dtype": "int4"}, {"window": 0.01}, {"hop": 2.0}, {"window": "all"}]
)
def test_options_that_mean_nothing_are_a_value_error(tiny: Embedder, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        tiny.embed(music(0.5), sr=24_000, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "many", None])
def test_batch_sizes_that_mean_nothing_are_a_value_error(tiny: Embedder, batch_size: object) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        tiny.embed_many([(music(0.5), 24_000)], batch_size=batch_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["mean", "meanstd"])
def test_pooling_while_embedding_is_pooling_afterwards(tiny: Embedder, pool: str) -> None:
    wave = music(3.3)
    pooled = tiny.embed(wave, sr=24_000, pool=pool)  # type: ignore[arg-type]
    afterwards = tiny.embed(wave, sr=24_000).pool(pool)  # type: ignore[arg-type]
    assert pooled.times is None and pooled.meta == afterwards.meta and pooled.meta["pool"] == pool
    assert close(pooled.values, afterwards.values)
    (many,) = tiny.embed_many([(wave, 24_000)], pool=pool)  # type: ignore[arg-type]
    assert close(many.values, afterwards.values)


def test_meta_says_what_made_the_features_and_survives_a_file(tiny: Embedder, write: Callable[..., Path]) -> None:
    path = write("a.wav", music(2.5, 44_100), 44_100)
    features = tiny.embed(path, window=0.5, hop=0.2)
    expected = {
        "model": "tiny", "weights_sha256": tiny.sha256, "source": str(path), "seconds": 2.5, "silent": False,
        "warnings": [], "window": (320 * 36 + 400) / 24_000, "hop": 15 / 75, "window_frames": 37, "hop_frames": 15,
        "normalize": True,
        "dtype": "float32", "resampler": "soxr HQ", "sample_rate": 24_000, "frame_rate": 75.0, "pool": None,
        "version": mert.__version__, "runtime": f"torch {torch.__version__}",
    }  # fmt: skip
    assert features.meta == expected
    features.save(path.with_suffix(".npz"))
    assert Features.load(path.with_suffix(".npz")).meta == json.loads(json.dumps(expected))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_copy_gives_the_same_features_also_after_use(copied: Callable[[Embedder], Embedder]) -> None:
    m = tiny_embedder()
    wanted = m.embed(music(1.2), sr=24_000)
    twin = copied(m)
    assert np.array_equal(twin.embed(music(1.2), sr=24_000).values, wanted.values)
    assert (twin.sha256, twin.info, twin.device) == (m.sha256, m.info, m.device)
    assert pickle.dumps(m) == pickle.dumps(twin)  # what datasets.map goes by
    next(twin.model.parameters()).mul_(2)
    assert np.array_equal(m.embed(music(1.2), sr=24_000).values, wanted.values)


def test_changed_weights_are_another_model() -> None:
    m = tiny_embedder()
    before = m.sha256
    m.model.train().requires_grad_(True)
    assert m.sha256 == before
    m.model.requires_grad_(False)
    for parameter in m.model.encoder.parameters():
        parameter.mul_(0.5)
    changed = m.embed(music(1), sr=24_000)
    assert m.sha256 != before and changed.meta["weights_sha256"] == m.sha256 == digest(m.model)
    for parameter in m.model.encoder.parameters():
        parameter.mul_(2)
    assert m.sha256 == digest(m.model) != changed.meta["weights_sha256"]


@pytest.mark.parametrize("way", ["data", "numpy", "a view"])
def test_weights_changed_behind_torchs_back_are_another_model(way: str) -> None:
    m, wave_N = tiny_embedder(), music(1)
    before = m.embed(wave_N, sr=24_000)
    for parameter in m.model.parameters():
        if way == "data":
            parameter.data.mul_(0.5)
        elif way == "numpy":
            parameter.detach().numpy()[...] *= 0.5
        else:
            parameter.data.view(-1)[:] *= 0.5
    after, copy = m.embed(wave_N, sr=24_000), pickle.loads(pickle.dumps(m))
    anew = Embedder(m.model, m.info, digest(m.model), "cpu").embed(wave_N, sr=24_000)
    np.testing.assert_array_equal(after.values, anew.values)
    np.testing.assert_array_equal(copy.embed(wave_N, sr=24_000).values, anew.values)
    assert after.meta["weights_sha256"] == copy.sha256 == digest(m.model) != before.meta["weights_sha256"]


def test_an_embedder_is_shown_in_one_line(tiny: Embedder) -> None:
    assert repr(tiny) == "Embedder(tiny: 0.0 M parameters, 24000 Hz, 75 frames/s, embed to layer03, cpu)"


def test_encode_is_one_pooled_vector_per_recording(tiny: Embedder, write: Callable[..., Path]) -> None:
    waves = np.stack([music(1.1, seed=i) for i in range(3)])
    wanted = [tiny.embed(wave, sr=24_000, layers=["layer03"], pool="mean").values[0] for wave in waves]
    got = tiny.encode(waves, sr=24_000)
    assert got.dtype == np.float32 and all(map(close, got, wanted))
    paths = [write(f"{i}.wav", wave, subtype="FLOAT") for i, wave in enumerate(waves)]
    assert np.array_equal(tiny.encode(paths), got) and tiny.encode([]).shape == (0, 32)


@pytest.mark.parametrize("pool", [None, "mean"])
def test_bad_recordings_of_a_list_can_be_left_out_with_a_warning(
    pool: Any, tiny: Embedder, write: Callable[..., Path], tmp_path: Path
) -> None:
    """One that cannot be opened, and one with a NaN after its first windows: neither leaves frames behind."""
    spoiled = music(2.5)
    spoiled[-100] = np.nan
    (tmp_path / "no.wav").write_bytes(b"no sound")
    good = [write(f"{i}.wav", music(1.2, seed=i)) for i in range(2)]
    bad = write("spoiled.wav", spoiled, subtype="FLOAT")
    with pytest.warns(UserWarning, match="left out: ") as warned:
        found = list(tiny.embed_many([good[0], tmp_path / "no.wav", bad, good[1]], pool=pool, errors="skip"))
    assert len(warned) == 2 and [features.meta["source"] for features in found] == [str(path) for path in good]
    for features, path in zip(found, good, strict=True):
        assert all_close(features.values, tiny.embed(path, pool=pool).values)
    with pytest.raises(AudioError, match="no\\.wav"):
        list(tiny.embed_many([tmp_path / "no.wav"]))


def test_the_weights_decide_the_digest(tiny: Embedder) -> None:
    assert tiny_embedder().sha256 == tiny.sha256 != tiny_embedder(seed=1).sha256
    assert len(tiny.sha256) == 64


def test_random_models_are_a_function_of_the_seed() -> None:
    first, again, other = (random_model("nano", seed=seed) for seed in (0, 0, 1))
    assert first.sha256 == again.sha256 != other.sha256
    assert first.info.name == "random-nano"


# ------------------------------------------------------------------------------------------------ many, batched


CLIPS = [music(s, seed=i) for i, s in enumerate((0.02, 0.3, 1.0, 1.01, 1.7, 2.6))]


@pytest.fixture(scope="module")
def alone(tiny: Embedder) -> list[np.ndarray]:
    return [tiny.embed(clip, sr=24_000).values for clip in CLIPS]


@settings(max_examples=25, deadline=None)
@given(
    order=st.lists(st.integers(0, len(CLIPS) - 1), min_size=1, max_size=6),
    batch_size=st.one_of(st.integers(1, 9), st.just("auto")),
)
def test_an_item_of_a_list_equals_the_clip_alone_whatever_its_neighbours_and_the_batch_size(
    tiny: Embedder, alone: list[np.ndarray], order: list[int], batch_size: int | str
) -> None:
    many = list(tiny.embed_many([(CLIPS[i], 24_000) for i in order], batch_size=batch_size))
    assert len(many) == len(order)
    for i, features in zip(order, many, strict=True):
        assert all_close(features.values, alone[i])
        assert features.times is not None and len(features.times) == features.values.shape[1]
        assert features.meta["seconds"] == len(CLIPS[i]) / 24_000


@pytest.mark.parametrize("window", ["whole", 0.3])
def test_windows_of_any_length_share_batches_without_leaking(tiny: Embedder, window: float | str) -> None:
    many = tiny.embed_many([(clip, 24_000) for clip in CLIPS], window=window, batch_size=4)
    for clip, features in zip(CLIPS, many, strict=True):
        assert all_close(features.values, tiny.embed(clip, sr=24_000, window=window).values)


def test_paths_and_arrays_mix_in_input_order(tiny: Embedder, write: Callable[..., Path]) -> None:
    path = write("a.wav", CLIPS[2], subtype="FLOAT")
    names = [f.meta["source"] for f in tiny.embed_many([path, (CLIPS[1], 24_000), str(path), path.read_bytes()])]
    assert names == [str(path), "array", str(path), f"{path.stat().st_size} bytes"]


def test_nothing_in_is_nothing_out(tiny: Embedder) -> None:
    assert list(tiny.embed_many([])) == []


def test_items_are_taken_as_they_are_needed(tiny: Embedder) -> None:
    taken = 0

    def endless() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal taken
        while True:
            taken += 1
            yield CLIPS[1], 24_000

    many = tiny.embed_many(endless(), batch_size=2)
    for i in range(1, 6):
        next(many)
        assert taken <= i + 3


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_a_bad_item_is_raised_after_all_before_it_were_given_once(tiny: Embedder, batch_size: int) -> None:
    bad = CLIPS[4].copy()
    bad[-1] = np.nan
    given_back = []
    with pytest.raises(AudioError, match="is nan"):
        for features in tiny.embed_many([(c, 24_000) for c in (*CLIPS[1:4], bad, CLIPS[5])], batch_size=batch_size):
            given_back.append(features.values)
    assert len(given_back) == 3
    for values, clip in zip(given_back, CLIPS[1:4], strict=True):
        assert all_close(values, tiny.embed(clip, sr=24_000).values)


def test_an_item_that_is_no_recording_is_raised_after_all_before_it_were_given(tiny: Embedder) -> None:
    given_back = []
    with pytest.raises(TypeError, match="sample rate"):
        for features in tiny.embed_many([(CLIPS[1], 24_000), CLIPS[2]], batch_size=8):  # type: ignore[list-item]
            given_back.append(features)
    assert len(given_back) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_an_overflow_spoils_neither_what_was_before_nor_gives_it_twice(
    tiny: Embedder, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States that overflow are an error of their own recording only."""
    loud = 2 * CLIPS[3]
    compute = tiny.runner.states

    def overflowing(waves: list[np.ndarray], *args: object) -> Iterator[np.ndarray]:
        for wave, states in zip(waves, compute(waves, *args), strict=True):  # type: ignore[arg-type]
            yield states + np.float32(np.inf) if np.array_equal(wave, loud[: len(wave)]) else states

    monkeypatch.setattr(tiny.runner, "states", overflowing)
    given_back = []
    with pytest.raises(MertError, match="overflow in float32"):
        for features in tiny.embed_many([(w, 24_000) for w in (CLIPS[1], CLIPS[2], loud)], batch_size=batch_size):
            given_back.append(features.values)
    assert [values.shape[1] for values in given_back] == [22, 74]


def test_a_lone_nan_spoils_no_other_row_of_its_batch(tiny: Embedder) -> None:
    """The model itself, below the checks: a row of NaN leaves its neighbours alone."""
    waves = [CLIPS[2], np.full_like(CLIPS[2], np.nan), CLIPS[3][:24_000]]
    states = list(tiny.runner.states(waves, "float32", range(4)))
    assert np.isnan(states[1]).all()
    for i in (0, 2):
        (wanted,) = tiny.runner.states([waves[i]], "float32", range(4))
        assert all_close(states[i], wanted)


def test_silence_is_finite_flagged_and_leaves_its_neighbours_alone(tiny: Embedder, alone: list[np.ndarray]) -> None:
    silence = np.zeros(30_000, np.float32)
    first, quiet, last = tiny.embed_many([(CLIPS[2], 24_000), (silence, 24_000), (CLIPS[3], 24_000)], batch_size=8)
    assert np.isfinite(quiet.values).all() and quiet.meta["silent"] is True
    assert any("silent" in warning for warning in quiet.meta["warnings"])
    assert all_close(first.values, alone[2]) and all_close(last.values, alone[3])
    assert first.meta["silent"] is last.meta["silent"] is False


def test_the_same_sound_twice_gives_the_same_bits(tiny: Embedder) -> None:
    first, second = (tiny.embed(CLIPS[5], sr=24_000).values for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_is_near_and_values_are_float32_all_the_same(
    tiny: Embedder, dtype: str, tolerance: float
) -> None:
    half = tiny.embed(CLIPS[4], sr=24_000, dtype=dtype)
    full = tiny.embed(CLIPS[4], sr=24_000).values
    assert half.values.dtype == np.float32 and half.meta["dtype"] == dtype
    for got, wanted in zip(half.values, full, strict=True):
        assert np.sqrt(np.mean((got - wanted) ** 2)) < tolerance * np.sqrt(np.mean(wanted**2))


# ----------------------------------------------------------------------------------------------------- stream


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 400),
    options=st.sampled_from(
        [{}, {"window": 0.3}, {"window": 0.5, "hop": 0.2}, {"hop": 1 / 3}, {"window": 4.0}, {"window": "whole"}]
    ),
    rate_hz=st.sampled_from([24_000, 44_100]),
)
def test_a_stream_in_any_blocks_equals_embed(
    tiny: Embedder, sizes: list[int], options: dict[str, object], rate_hz: int
) -> None:
    wave = music(1.9, rate_hz, seed=8)
    wanted = tiny.embed(wave, sr=rate_hz, **options)  # type: ignore[arg-type]
    got = together(tiny.stream(in_blocks(wave, sizes), sr=rate_hz, **options))  # type: ignore[arg-type]
    assert all_close(got.values, wanted.values) and got.layers == wanted.layers
    np.testing.assert_array_equal(got.times, wanted.times)
    assert got.meta | {"source": "array"} == wanted.meta


@pytest.mark.parametrize("sizes", [[480], [1, 5000], [2, 5000], [0, 5000], [7]])
def test_a_stereo_stream_in_any_blocks_equals_embed(tiny: Embedder, sizes: list[int]) -> None:
    stereo = np.stack([music(0.6, seed=1), 0.3 * music(0.6, seed=2)], axis=1)
    wanted = tiny.embed(stereo, sr=24_000)
    got = together(tiny.stream(in_blocks(stereo, sizes), sr=24_000))
    assert all_close(got.values, wanted.values)


def test_an_integer_stream_equals_embed(tiny: Embedder) -> None:
    wave = np.round(music(1.2) * 2**15).astype(np.int16)
    got = together(tiny.stream(in_blocks(wave, [999]), sr=24_000))
    assert all_close(got.values, tiny.embed(wave, sr=24_000).values)


def test_a_stream_gives_a_window_before_the_next_has_begun(tiny: Embedder) -> None:
    read = 0

    def live() -> Iterator[np.ndarray]:
        nonlocal read
        for block in in_blocks(music(3.0), [2400]):
            read += len(block)
            yield block

    stream = tiny.stream(live(), sr=24_000)
    first = next(stream)
    assert first.values.shape[1] == 74 and read <= 24_000 + 2400


def test_a_nan_in_a_stream_is_an_error_with_its_position_after_the_windows_before_it(tiny: Embedder) -> None:
    wave = music(3.0)
    wave[60_000] = np.nan
    stream = tiny.stream(in_blocks(wave, [1000]), sr=24_000)
    assert [next(stream).values.shape[1] for _ in range(2)] == [74, 74]
    with pytest.raises(AudioError, match=r"stream: sample 60000 \(2\.500000 s\) is nan"):
        next(stream)


# ----------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("window", [None, "whole"])
def test_what_would_not_fit_the_memory_is_refused_with_the_ways_around(
    tiny: Embedder, window: str | None, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]
) -> None:
    wave = music(4.0)
    path = write("a.wav", wave)
    monkeypatch.setattr(mert.embedding.embedder, "free_memory", lambda: 2 * 50_000.0)
    for source, sr in ((path, None), (wave, 24_000)):
        with pytest.raises(OutputError, match=r"free memory.*layers=.*pool=.*stream") as caught:
            tiny.embed(source, sr=sr, window=window)
        assert caught.value.source == ("array" if sr else str(path))
    with pytest.raises(OutputError, match="free memory"):
        list(tiny.embed_many([path]))


def test_the_ways_around_the_memory_work(tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = music(4.0)
    everything = tiny.embed(wave, sr=24_000)
    monkeypatch.setattr(mert.embedding.embedder, "free_memory", lambda: 2 * 50_000.0)
    assert everything.values.nbytes > 2 * 50_000 > 2 * everything.values[-1:].nbytes
    assert close(tiny.embed(wave, sr=24_000, layers=[-1]).values[0], everything.values[-1])
    assert close(tiny.embed(wave, sr=24_000, pool="mean").values, everything.pool("mean").values)
    assert all_close(together(tiny.stream([wave], sr=24_000)).values, everything.values)


def test_nothing_is_computed_before_a_recording_is_refused(
    tiny: Embedder, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]
) -> None:
    path = write("a.wav", music(4.0))

    def forbidden(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(tiny.runner, "states", forbidden)
    monkeypatch.setattr(mert.embedding.embedder, "free_memory", lambda: 1000.0)
    with pytest.raises(OutputError):
        tiny.embed(path)


@pytest.mark.parametrize("free", [float("inf"), 1e5])
def test_max_seconds_counts_decoded_samples_and_comes_before_the_memory(
    tiny: Embedder, free: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mert.embedding.embedder, "free_memory", lambda: free)
    data = flac(music(4.0))
    with pytest.raises(AudioError, match="max_seconds=2;"):
        tiny.embed(data, max_seconds=2.0)
    with pytest.raises(AudioError, match="max_seconds=2;"):
        tiny.embed(music(4.0), sr=24_000, max_seconds=2.0, pool="mean")


def test_errors_name_the_file(tiny: Embedder, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_text("no sound")
    for path in (tmp_path / "x.wav", tmp_path / "missing.wav"):
        with pytest.raises(AudioError) as caught:
            tiny.embed(path)
        assert caught.value.source == str(path) and str(caught.value).startswith(str(path))


def test_embedding_changes_neither_the_array_nor_the_random_state(tiny: Embedder) -> None:
    wave = music(1.2)
    before, state = wave.copy(), torch.get_rng_state()
    wave.flags.writeable = False
    tiny.embed(wave, sr=24_000)
    np.testing.assert_array_equal(wave, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_file_is_left_open(tiny: Embedder, write: Callable[..., Path]) -> None:
    path = write("a.flac", music(1.0))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        tiny.embed(path)
        with pytest.raises(AudioError):
            tiny.embed(path, max_seconds=0.1)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_recorded_window_and_hop_make_the_same_features_again(tiny: Embedder) -> None:
    first = tiny.embed(CLIPS[5], sr=24_000, window=0.5, hop=0.2)
    again = tiny.embed(CLIPS[5], sr=24_000, window=first.meta["window"], hop=first.meta["hop"])
    np.testing.assert_array_equal(again.values, first.values)
    assert again.meta == first.meta


def test_mistakes_in_a_call_are_errors_at_once(tiny: Embedder) -> None:
    with pytest.raises(TypeError, match="list of recordings"):
        tiny.embed_many("song.wav")
    with pytest.raises(ValueError, match="no layer 99"):
        tiny.stream([], sr=24_000, layers=[99])
    with pytest.raises(ValueError, match="no layer True"):
        tiny.embed(CLIPS[1], sr=24_000, layers=True)
    with pytest.raises(ValueError, match="size is one of nano"):
        mert.random_model("nanoo")
    wave = torch.from_numpy(CLIPS[2]).requires_grad_()
    np.testing.assert_array_equal(tiny.embed(wave, sr=24_000).values, tiny.embed(CLIPS[2], sr=24_000).values)


def test_what_a_container_caches_of_files_is_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"max": "1000000", "current": "990000", "stat": "anon 80000\ninactive_file 900000\nactive_file 10000"}
    for name, text in facts.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    monkeypatch.setattr(mert.embedding.embedder, "CGROUP", tmp_path)
    assert mert.embedding.embedder.free_memory() == 910_000
    (tmp_path / "memory.max").write_text("max\n")
    assert mert.embedding.embedder.free_memory() > 10_000_000
