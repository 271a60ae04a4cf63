"""What all code teachers promise: ranges, determinism, independent rows, folders, alignment, codes in use, errors."""

from __future__ import annotations

import json
import logging
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.sounds import music
from torch import Tensor

import teachers
from teachers import Fitting, Teacher, TeacherError, fit_teacher, load_teacher
from teachers.base import perplexity, read_folder
from teachers.clustering import Reservoir, kmeans, residual_codes, residual_kmeans
from teachers.cqt import Cqt
from teachers.registry import teacher_class
from teachers.spectral import Spectral

NAMES = ["kmeans_mfcc", "kmeans_mel_chroma", "mel_rvq", "random_projection", "encodec", "encodec_small"]
CLASSES = {
    "kmeans_mfcc": (24,),
    "kmeans_mel_chroma": (24, 16),
    "mel_rvq": (32,) * 4,
    "random_projection": (1024,) * 4,
    "encodec": (1024,) * 8,
    "encodec_small": (32,) * 8,
}
SMALL_CODEC = dict(n_filters=4, dimension=16, n_classes=32, batch_clips=4, crop_s=0.4, sample_clips=16, lr=3e-3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Many small operations on busy cores wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def corpus(rate_hz: int = 24_000, n: int = 3, seconds: float = 2) -> list[np.ndarray]:
    return [music(seconds, rate_hz, seed=i) for i in range(n)]


def needs(name: str) -> None:
    pytest.importorskip("nnAudio")
    pytest.importorskip("sklearn")
    if name.startswith("encodec"):
        pytest.importorskip("encodec")


def make(name: str, seed: int = 0) -> Teacher:
    needs(name)
    if name.startswith("kmeans_"):
        features, waves = name.removeprefix("kmeans_"), corpus(16_000)
        return fit_teacher("kmeans", waves, features=features, n_classes=CLASSES[name], seed=seed)
    if name == "mel_rvq":
        return fit_teacher(name, corpus(), n_codebooks=4, n_classes=32, seed=seed)
    if name == "random_projection":
        return teacher_class(name).seeded(seed)
    if name == "encodec":
        return teacher_class(name).random(seed)
    return fit_teacher(name, corpus(), steps=12, seed=seed, **SMALL_CODEC)


_made: dict[str, Any] = {}


@pytest.fixture(params=NAMES)
def teacher(request: pytest.FixtureRequest) -> Any:
    name = request.param
    if name not in _made:
        _made[name] = make(name)
    return _made[name]


def name_of(teacher: Any) -> str:
    return next(name for name, made in _made.items() if made is teacher)


def clips(teacher: Teacher, n: int = 2, seconds: float = 2, first: int = 50) -> Tensor:
    return torch.from_numpy(np.stack([music(seconds, teacher.sample_rate, seed=first + i) for i in range(n)]))


def codes_of(teacher: Teacher, wave_BN: Tensor) -> Tensor:
    codes_BKT = teacher.targets(wave_BN).codes
    assert codes_BKT is not None
    return codes_BKT


def test_protocol_shapes_and_ranges(teacher: Any) -> None:
    assert isinstance(teacher, Teacher) and teacher.n_bins == 0
    assert teacher.n_classes == CLASSES[name_of(teacher)]
    assert teacher.rate_hz == teacher.sample_rate / 320
    assert teacher.licence == ("CC BY-NC 4.0" if "encodec" in teacher.name else "Apache-2.0")
    targets = teacher.targets(clips(teacher))
    assert targets.frames is None and targets.codes is not None and targets.codes.dtype == torch.int64
    assert targets.rate_hz == teacher.rate_hz and targets.fingerprint == teacher.fingerprint
    assert len(targets.fingerprint) == 64 and set(targets.fingerprint) <= set("0123456789abcdef")
    assert targets.codes.shape[:2] == (2, len(teacher.n_classes))
    for k, n in enumerate(teacher.n_classes):
        assert set(targets.codes[:, k].flatten().tolist()) <= set(range(n))


@pytest.mark.parametrize("n", [1, 319, 320, 321, 399, 400, 720, 7_777])
def test_enough_frames_for_the_student(teacher: Any, n: int) -> None:
    codes_BKT = codes_of(teacher, clips(teacher, seconds=1)[:, :n])
    assert codes_BKT.shape[2] == -(-n // 320) >= (n - 400) // 320 + 1


def test_deterministic_and_rows_independent(teacher: Any) -> None:
    wave_BN = clips(teacher, n=3)
    wave_BN[1] *= 50
    together = codes_of(teacher, wave_BN)
    assert torch.equal(together, codes_of(teacher, wave_BN))
    for b in range(3):
        assert torch.equal(together[b], codes_of(teacher, wave_BN[b : b + 1])[0])


@pytest.mark.parametrize("n", [1, 320 * 60, 320 * 120 + 1, 320 * 147 + 77])
def test_a_long_recording_in_pieces_has_the_codes_of_the_whole(
    teacher: Any, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if teacher.name == "encodec_small":
        pytest.skip("after a few steps its latents hardly differ, and rounding decides its codes")
    wave_1N = clips(teacher, n=1, seconds=3)[:, :n]
    asked: list[int] = []

    def read(start: int, n_samples: int) -> np.ndarray:
        asked.append(n_samples)
        return wave_1N[0, start : start + n_samples].numpy()

    monkeypatch.setattr("teachers.base.PIECE_FRAMES", 60)
    codes_KT = teacher.recording_codes(read, n)
    whole_KT = codes_of(teacher, wave_1N)[0]
    assert torch.equal(codes_KT, whole_KT) or lead(teacher, wave_1N, codes_KT, whole_KT) < 1e-6
    assert len(asked) == -(-n // (320 * 60)) and max(asked) <= 320 * (60 + 6 + 7)


def lead(teacher: Any, wave_1N: Tensor, codes_KT: Tensor, whole_KT: Tensor) -> float:
    """By how much the better of two codes is nearer where EnCodec's first differ, in shares of the latent's power.

    Distances are differences of such powers, so that float32 decides nothing below 1e-6. Random latents are close.
    """
    with torch.no_grad():
        latents_TD = teacher.parts["encoder"](wave_1N[None])[0].T.double()
    books, most = [book_CD.double() for book_CD in teacher.codebooks()], 0.0
    for t in (codes_KT != whole_KT).any(0).nonzero().flatten().tolist():
        k = int((codes_KT[:, t] != whole_KT[:, t]).nonzero()[0])
        rest_D = latents_TD[t] - sum(books[j][whole_KT[j, t]] for j in range(k))
        one, other = (((books[k][codes[k, t]] - rest_D) ** 2).sum() for codes in (codes_KT, whole_KT))
        most = max(most, float(abs(one - other) / (latents_TD[t] ** 2).sum()))
    return most


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_codes_on_a_gpu_are_those_of_the_cpu_but_for_near_ties(teacher: Any) -> None:
    wave_1N = clips(teacher, n=1, seconds=25)
    read = lambda start, n: wave_1N[0, start : start + n].numpy()  # noqa: E731
    codes_KT = teacher.recording_codes(read, wave_1N.shape[1])
    there_KT = teacher.recording_codes(read, wave_1N.shape[1], torch.device("cuda"))
    assert there_KT.device.type == "cpu"
    assert float((there_KT != codes_KT).float().mean()) < (0.5 if teacher.name == "encodec_small" else 0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["kmeans", "mel_rvq", "random_projection", "encodec_small"])
def test_a_fit_on_a_gpu_gives_a_teacher_for_any_device(name: str) -> None:
    needs(name)
    settings = {"n_classes": 24} if name in ("kmeans", "mel_rvq") else {}
    codec = {"steps": 12, **SMALL_CODEC} if name == "encodec_small" else {}
    made = fit_teacher(name, corpus(), Fitting(torch.device("cuda")), **settings, **codec)
    assert all(value.device.type == "cpu" for value in made.weights.values())
    assert codes_of(made, clips(made)).device.type == "cpu"


@pytest.mark.parametrize(("n_residual_layers", "lstm"), [(1, 2), (2, 1), (3, 1)])
def test_pieces_for_encodec_have_the_latents_of_the_whole(n_residual_layers: int, lstm: int) -> None:
    needs("encodec")
    sizes = {"n_filters": 4, "dimension": 16, "n_classes": 32, "n_residual_layers": n_residual_layers, "lstm": lstm}
    teacher = teacher_class("encodec").random(**sizes)
    wave_1N, before, state, pieces = clips(teacher, n=1)[:, :-77], teacher.frames_before, None, []
    with torch.no_grad():
        whole_1DT = teacher.parts["encoder"](wave_1N[None])
        for first in range(0, whole_1DT.shape[2], 40):
            begin = max(0, first - before)
            piece_1DT, state = teacher.latents(wave_1N[:, begin * 320 : (first + 40) * 320], first - begin, state)
            pieces.append(piece_1DT)
    apart = float((torch.cat(pieces, 2) - whole_1DT).abs().max())
    assert apart < 1e-3 * float(whole_1DT.std(2).mean())


@pytest.mark.parametrize(("kind", "n_fft", "n"), [("mel", 2048, 128), ("mfcc", 1024, 39), ("chroma", 4096, 264)])
def test_frames_depend_on_as_many_samples_as_they_say(kind: str, n_fft: int, n: int) -> None:
    needs("kmeans_mfcc")
    spectral = Spectral(kind, n_fft=n_fft, n_features=n)
    wave_1N, (before, after) = torch.from_numpy(music(1))[None], spectral.reach
    frame_F = spectral(wave_1N)[0, 30]
    for fewer_before, fewer_after in ((0, 0), (2, 0), (0, 2)):  # windows end softly
        first, last = 30 - before + fewer_before, 30 + after - fewer_after
        part_F = spectral(wave_1N[:, 320 * first : 320 * (last + 1)])[0, 30 - first]
        assert torch.allclose(part_F, frame_F, atol=1e-5) == (fewer_before == fewer_after == 0)


def test_a_read_that_gives_no_mono_sound_is_an_error(teacher: Any) -> None:
    with pytest.raises(ValueError, match="wants clips"):
        teacher.recording_codes(lambda start, n: np.zeros((2, n)), 9_000)


def test_autocast_and_gradients_change_nothing(teacher: Any) -> None:
    wave_BN = clips(teacher, n=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes_BKT = codes_of(teacher, wave_BN.clone().requires_grad_())
    assert torch.equal(codes_BKT, codes_of(teacher, wave_BN))


def test_saved_and_loaded(teacher: Any, tmp_path: Path) -> None:
    teacher.save(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["teacher.json", "teacher.safetensors"]
    again = load_teacher(tmp_path / "saved")
    assert type(again) is type(teacher) and again.fingerprint == teacher.fingerprint
    wave_BN = clips(teacher)
    assert torch.equal(codes_of(again, wave_BN), codes_of(teacher, wave_BN))
    assert (again.n_classes, again.sample_rate) == (teacher.n_classes, teacher.sample_rate)


def changed(teacher: Any, folder: Path, settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Save a teacher, then write other contents under its old fingerprint."""
    from safetensors.torch import save_file

    teacher.save(folder)
    about, old = read_folder(folder)
    (folder / "teacher.json").write_text(json.dumps(about | {"settings": about["settings"] | settings}))
    save_file(old | weights, folder / "teacher.safetensors")


def test_corrupt_folders_are_refused(teacher: Any, tmp_path: Path) -> None:
    key, value = next((k, v) for k, v in sorted(teacher.weights.items()) if v.is_floating_point())
    for i, (settings, weights) in enumerate(
        [({}, {key: value + 1}), ({"no_such": 1}, {}), ({}, {key: value.flatten()[:1]})]
    ):
        changed(teacher, tmp_path / str(i), settings, weights)
        with pytest.raises(TeacherError, match=r"belong together|fingerprint"):
            load_teacher(tmp_path / str(i))


def test_a_save_that_the_disk_refuses_keeps_the_old_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = load_teacher("cqt"), teacher_class("cqt")(Cqt(rate_hz=16_000))
    old.save(tmp_path)

    def full(weights: dict[str, Tensor]) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("teachers.base.save", full)
    with pytest.raises(TeacherError, match=r"cannot be written .*No space left"):
        new.save(tmp_path)
    assert load_teacher(tmp_path).fingerprint == old.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["teacher.json", "teacher.safetensors"]


def test_torn_folders_are_refused(teacher: Any, tmp_path: Path) -> None:
    teacher.save(tmp_path)
    whole = (tmp_path / "teacher.safetensors").read_bytes()
    (tmp_path / "teacher.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TeacherError, match="is not a saved teacher"):
        load_teacher(tmp_path)
    (tmp_path / "teacher.safetensors").write_bytes(whole)
    for text in ["{", "[]", "{}", json.dumps({"name": "mel_rvq", "fingerprint": 5, "settings": {}})]:
        (tmp_path / "teacher.json").write_text(text)
        with pytest.raises(TeacherError):
            load_teacher(tmp_path)
    (tmp_path / "teacher.json").write_text(json.dumps({"name": "cqt", "fingerprint": "", "settings": {}}))
    with pytest.raises(TeacherError, match="holds a cqt"):
        type(teacher).load(tmp_path)


def test_fitting_repeats_and_follows_the_seed(teacher: Any) -> None:
    again, other = (make(name_of(teacher), seed) for seed in (0, 4))
    assert teacher.fingerprint == again.fingerprint != other.fingerprint


def test_fingerprint_follows_settings_and_weights(teacher: Any) -> None:
    parts = (teacher.settings, dict(teacher.weights))
    assert teacher.from_parts(*parts).fingerprint == teacher.fingerprint
    key = next(k for k, v in sorted(teacher.weights.items()) if v.is_floating_point())
    nudged = parts[1] | {key: parts[1][key] + 0.5}
    assert teacher.from_parts(parts[0], nudged).fingerprint != teacher.fingerprint


def test_a_click_lands_in_the_students_frame(teacher: Any) -> None:
    for frame in (30, 41):
        wave_BN = torch.zeros(1, 320 * 75)
        plain = codes_of(teacher, wave_BN)
        wave_BN[0, 320 * frame + 200] = 0.9  # the centre of the student's frame
        moved_T = (codes_of(teacher, wave_BN) != plain).any(1)[0].nonzero()[:, 0]
        if "encodec" in teacher.name:  # causal, with a memory: the click is where the codes begin to differ
            assert abs(int(moved_T[0]) - frame) <= 1
        else:
            middle = float(moved_T[0] + moved_T[-1]) / 2
            if teacher.name == "kmeans" and "mfcc" in teacher.streams:  # deltas reach four frames on
                assert len(moved_T) <= 13
            assert abs(middle - frame) <= 1


def test_codes_are_in_use_and_tell_sounds_apart(teacher: Any) -> None:
    codes_BKT = codes_of(teacher, clips(teacher, n=3))
    used = [perplexity(codes_BKT[:, k].flatten().bincount()) for k in range(codes_BKT.shape[1])]
    assert min(used) >= 6, used
    t = torch.arange(teacher.sample_rate) / teacher.sample_rate
    noise = 0.003 * torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    low, high = (noise + sum(torch.sin(2 * torch.pi * k * hz * t) / k for k in range(1, 5)) / 10 for hz in (110, 588))
    a, b, c = codes_of(teacher, torch.stack([low, high, noise]))[:, :, 20:-20]
    assert min(float((x != y).any(0).float().mean()) for x, y in ((a, b), (b, c), (a, c))) > 0.5


def test_unfitted_stages_are_refused() -> None:
    needs("encodec")
    kind = teacher_class("encodec")
    made = kind.random(n_filters=4, dimension=16, n_classes=32)
    weights = {k: torch.zeros_like(v) if k.endswith("inited") else v for k, v in made.weights.items()}
    with pytest.raises(ValueError, match="never fitted"):
        kind.from_parts(made.settings, weights)


def test_small_codec_learns_and_leaves_the_generator_alone() -> None:
    needs("encodec_small")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    teacher_class("encodec").random(1, n_filters=4, dimension=16, n_classes=32)
    fitted: Any = fit_teacher("encodec_small", corpus(), steps=25, **SMALL_CODEC)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(fitted.losses) == 25
    assert np.mean(fitted.losses[-5:]) < 0.85 * np.mean(fitted.losses[:3])
    assert not any(key.startswith("decoder") for key in fitted.weights)


def test_published_weights_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("encodec")
    import encodec.model

    with pytest.raises(TeacherError, match=r"holds no encodec_24khz-d7cc33bc\.th"):
        teacher_class("encodec").pretrained(tmp_path)
    (tmp_path / "encodec_24khz-d7cc33bc.th").write_bytes(b"not the weights")
    with pytest.raises(TeacherError, match="cannot be had"):  # the package's own checksum
        load_teacher(tmp_path)

    from teachers.encodec import EncodecTeacher

    random = EncodecTeacher.random(0)

    def pretend(name: str, repository: Path | None = None) -> dict[str, Tensor]:
        model = encodec.model.EncodecModel._get_model([1.5, 24.0])
        return model.state_dict() | {k: v for k, v in random.weights.items()}

    monkeypatch.setattr(encodec.model.EncodecModel, "_get_pretrained", staticmethod(pretend))
    with pytest.warns(FutureWarning):
        encodec.model.EncodecModel._get_model([1.5, 24.0])
    assert load_teacher(tmp_path).fingerprint == random.fingerprint
    assert load_teacher("encodec").n_classes == (1024,) * 8


def test_codes_equal_those_of_the_whole_package() -> None:
    needs("encodec")
    import warnings

    from encodec import EncodecModel

    teacher = teacher_class("encodec").random(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = EncodecModel.encodec_model_24khz(pretrained=False)
    model.load_state_dict(teacher.weights, strict=False)
    model.set_target_bandwidth(6.0)
    wave_BN = clips(teacher, n=1)
    with torch.no_grad():
        [(codes_BKT, _)] = model.encode(wave_BN[:, None])
    assert torch.equal(codes_BKT, codes_of(teacher, wave_BN))


def test_licence_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("encodec")
    import teachers.encodec as module

    monkeypatch.setattr(module, "_noted", set())
    with caplog.at_level(logging.WARNING, logger="mert"):
        for _ in range(2):
            module.encodec_package()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "CC BY-NC 4.0" in caplog.text


@pytest.mark.parametrize(
    ("name", "settings"),
    [("kmeans", {}), ("mel_rvq", {}), ("random_projection", {}), ("encodec_small", {}), ("kmeans", {"features": "x"})],
)
def test_no_data_is_an_error(name: str, settings: dict[str, Any]) -> None:
    needs(name)
    with pytest.raises(TeacherError, match=r"0 frames|0 crops|unknown"):
        fit_teacher(name, iter([]), **settings)


def test_too_little_data_is_an_error_with_counts() -> None:
    needs("encodec_small")
    short = [music(1)]
    with pytest.raises(TeacherError, match="75 distinct frames in a sample of 75 are too few for 1024 classes"):
        fit_teacher("mel_rvq", short)
    silence = [np.zeros(24_000 * 20, np.float32)]
    with pytest.raises(TeacherError, match="1 distinct frames in a sample of 1500"):
        fit_teacher("mel_rvq", silence)
    with pytest.raises(TeacherError, match="0 crops of 2 s"):
        fit_teacher("encodec_small", short, crop_s=2.0)
    with pytest.raises(TeacherError, match=r"n_classes=\(5,\) for 2 streams"):
        fit_teacher("kmeans", short, features="mel_chroma", n_classes=(5,))


@pytest.mark.parametrize("wave", [np.zeros((2, 900), np.float32), np.zeros(900, np.int16), np.full(900, np.nan)])
def test_recordings_that_are_none(wave: np.ndarray) -> None:
    needs("mel_rvq")
    with pytest.raises(TeacherError, match="recording 1 is"):
        fit_teacher("mel_rvq", [music(1), wave])


def test_ready_teachers_are_made_for_the_rate_of_the_music() -> None:
    """Those of 24 kHz have kept their fingerprints, to which runs and stores are bound."""
    needs("random_projection")
    at_24_khz = {
        "cqt": "048d52484582a3700f4d9bd735a55b3bc34a864a9227515efc6efca4ac6a6be1",
        "random_projection": "a1eda50a2a0aea0ada587e785609626c8bffd2814037f0383122a3a6f902e7bb",
    }
    for name, fingerprint in at_24_khz.items():
        assert load_teacher(name).fingerprint == load_teacher(name, 24_000).fingerprint == fingerprint
        slow: Any = load_teacher(name, 16_000)
        assert (slow.sample_rate, slow.rate_hz) == (16_000, 50.0) and slow.fingerprint != fingerprint
        targets = slow.targets(clips(slow, n=1, seconds=1))
        assert (targets.codes if targets.frames is None else targets.frames.transpose(1, 2)).shape[2] >= 49
    with pytest.raises(TeacherError, match=r"cqt: cannot work at 8000 Hz \(336 bins reach 6046 Hz"):
        load_teacher("cqt", 8_000)
    with pytest.raises(TeacherError, match="encodec: works at 24000 Hz, and is asked for 16000 Hz"):
        load_teacher("encodec", 16_000)


def test_a_teacher_in_a_folder_keeps_its_rate(tmp_path: Path) -> None:
    load_teacher("cqt", 16_000).save(tmp_path)  # type: ignore[attr-defined]
    assert load_teacher(tmp_path).sample_rate == 16_000


def test_names_and_settings_that_do_not_exist(tmp_path: Path) -> None:
    needs("mel_rvq")
    for name, reason in [("mel_rvq", "must be fitted"), ("nonsense", "is neither"), (str(tmp_path), "is neither")]:
        with pytest.raises(TeacherError, match=reason):
            load_teacher(name)
    with pytest.raises(TeacherError, match="is no teacher"):
        fit_teacher("nonsense", [])
    with pytest.raises(TeacherError, match="is not fitted"):
        fit_teacher("cqt", [])
    with pytest.raises(TeacherError, match=r"unknown settings \['n_clusters'\]"):
        fit_teacher("mel_rvq", [], n_clusters=3)


@pytest.mark.parametrize(
    ("modules", "make_it", "install"),
    [
        (["nnAudio.features"], lambda: load_teacher("random_projection"), r"\[train\]"),
        (["nnAudio.features"], lambda: fit_teacher("mel_rvq", []), r"\[train\]"),
        (["nnAudio.features"], lambda: fit_teacher("kmeans", []), r"\[train\]"),
        (["encodec"], lambda: load_teacher("encodec"), r"\[encodec\].*torchaudio==2\.9\.1"),
        (["encodec"], lambda: fit_teacher("encodec_small", []), r"\[encodec\].*torchaudio==2\.9\.1"),
    ],
)
def test_a_missing_extra_names_its_install_line(
    modules: list[str], make_it: Any, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TeacherError, match=f"cannot be imported.*pip install -e .*{install}"):
        make_it()


def test_a_missing_scikit_learn_names_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(TeacherError, match=r"sklearn cannot be imported.*\[train\]"):
        kmeans(np.zeros((9, 2), np.float32), 3, 0, "kmeans")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TeacherError, match="cannot be written"):
        load_teacher("cqt").save(tmp_path / "file" / "folder")


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(TeacherError("a", "b", "c")))
    assert (error.source, error.reason, error.remedy) == ("a", "b", "c")


def test_reservoir_is_uniform_bounded_and_repeatable() -> None:
    counts = np.zeros(200)
    for seed in range(300):
        reservoir = Reservoir(20, seed)
        for part in np.array_split(np.arange(200)[:, None], 23):
            reservoir.add(part)
        rows = reservoir.rows()
        assert rows.shape == (20, 1) and len(np.unique(rows)) == 20
        counts[rows[:, 0]] += 1
    assert abs(counts[:100].sum() / counts.sum() - 0.5) < 0.03 and counts.min() > 8
    assert np.array_equal(rows, reservoir.rows())


def test_each_residual_stage_leaves_less() -> None:
    needs("mel_rvq")
    rows_NF = np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)
    codebooks_KCF = residual_kmeans(rows_NF, 3, 16, 0, "test")
    x_NF = torch.from_numpy(rows_NF)
    codes_KN = residual_codes(x_NF, codebooks_KCF)
    errors = []
    for k in range(3):
        x_NF = x_NF - codebooks_KCF[k][codes_KN[k]]
        errors.append(float(x_NF.square().mean()))
    assert 1 > errors[0] > errors[1] > errors[2]


def test_random_projection_fitted_to_a_corpus_spreads_wider() -> None:
    needs("random_projection")
    plain, fitted = load_teacher("random_projection"), fit_teacher("random_projection", corpus())
    wave_BN = clips(plain, n=3)
    codes = [codes_of(teacher, wave_BN) for teacher in (plain, fitted)]
    used = [np.mean([perplexity(codes_BKT[:, k].flatten().bincount()) for k in range(4)]) for codes_BKT in codes]
    assert used[1] > 1.2 * used[0] and plain.fingerprint != fitted.fingerprint


def test_importing_teachers_imports_no_extra() -> None:
    import subprocess

    code = "import sys, teachers; teachers.load_teacher('cqt');"
    code += "print([m for m in ('nnAudio', 'sklearn', 'encodec', 'torchaudio', 'scipy', 'mert') if m in sys.modules])"
    root = Path(teachers.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_stored_teacher_moves_its_weights_once() -> None:
    stored = Teacher({}, {"a": torch.zeros(2)})
    assert stored.weights_on(torch.device("cpu"))["a"] is stored.weights["a"]
