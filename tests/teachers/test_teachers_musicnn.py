"""musicnn: the checkpoint reader, the network and the input against the authors' own, and what a teacher promises."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
import torch.nn.functional as F
from harness.sounds import REFERENCE, music, needs_reference
from harness.tf_checkpoint import write_checkpoint

from teachers import load_teacher
from teachers.base import Targets, TeacherError
from teachers.musicnn import teacher as module
from teachers.musicnn.checkpoint import DATA, INDEX, read_checkpoint
from teachers.musicnn.network import from_tensorflow, tagger_of
from teachers.musicnn.teacher import (
    SHA256,
    TAG_NAMES,
    MusicnnFramesTeacher,
    MusicnnTeacher,
    at_level,
    log_mel,
    mel_bank,
    mel_spaced_hz,
    patches,
)
from teachers.spectral import resampled

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "musicnn.json").read_text())
RATE_HZ = 16_000


def is_installed() -> bool:
    try:
        return bool(distribution("musicnn"))
    except PackageNotFoundError:
        return False


needs_musicnn = pytest.mark.skipif(not is_installed(), reason="musicnn is not installed (teachers/README.md)")


def sounds() -> dict[str, torch.Tensor]:
    """Three seconds at 16 kHz [1, N], of which the authors' code made the golden figures."""
    t = np.arange(3 * RATE_HZ) / RATE_HZ
    chord = 0.9 * np.sign(np.sin(2 * np.pi * 220 * t)) * np.exp(-t) + 0.1 * np.sin(2 * np.pi * 3000 * t)
    noise = 0.05 * np.random.default_rng(0).standard_normal(3 * RATE_HZ)
    waves = {"notes": music(3.0, RATE_HZ, seed=5), "loud chord": chord, "noise": noise}
    return {name: torch.from_numpy(wave_N.astype(np.float32))[None] for name, wave_N in waves.items()}


def random_tensors(seed: int) -> dict[str, np.ndarray]:
    """A checkpoint of the authors' layout with weights drawn at random, norms that turn channels over among them."""
    random = np.random.default_rng(seed)

    def small(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / max(1.0, np.prod(shape[:-1]) ** 0.5)).astype(np.float32)

    shapes = {
        "conv2d": (7, 38, 1, 204), "conv2d_1": (7, 67, 1, 204), "conv2d_2": (128, 1, 1, 51), "conv2d_3": (64, 1, 1, 51),
        "conv2d_4": (32, 1, 1, 51), "conv2d_5": (7, 561, 1, 64), "conv2d_6": (7, 64, 1, 64),
        "conv2d_7": (7, 64, 1, 64), "dense": (1506, 200), "dense_1": (200, 50),
    }  # fmt: skip
    tensors: dict[str, np.ndarray] = {"beta1_power": np.float32([0.9]).reshape(()), "step": np.array([7])}
    for name, shape in shapes.items():
        tensors |= {f"{name}/kernel": small(*shape), f"{name}/bias": small(1, shape[-1])[0]}
        tensors[f"{name}/kernel/Adam"] = small(*shape[-1:])
    for i, n in enumerate((1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200)):
        scope = f"batch_normalization_{i}" if i else "batch_normalization"
        tensors |= {f"{scope}/{part}": small(1, n)[0] for part in ("beta", "moving_mean")}
        tensors |= {f"{scope}/gamma": small(1, n)[0], f"{scope}/moving_variance": 0.5 + random.random(n, np.float32)}
    return tensors


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the installed package is one, with other weights, which are taken for the published ones."""
    folder = tmp_path / "musicnn"
    sha256 = {}
    for seed, name in enumerate(SHA256):
        write_checkpoint(folder / f"{name}_musicnn", random_tensors(seed))
        files = {file: (folder / f"{name}_musicnn" / file).read_bytes() for file in (INDEX, DATA)}
        sha256[name] = {file: module.hashlib.sha256(content).hexdigest() for file, content in files.items()}
    monkeypatch.setattr(module, "SHA256", sha256)
    return folder


def test_the_reader_gives_every_float_tensor_as_it_was_written(tmp_path: Path) -> None:
    tensors = random_tensors(3)
    for keys_a_block in (1, 7, 1000):
        write_checkpoint(tmp_path, tensors, keys_a_block)
        read = read_checkpoint(tmp_path, "again")
        assert read.keys() == tensors.keys() - {"step"}  # which is an int64
        assert all(np.array_equal(tensor.numpy(), tensors[name]) for name, tensor in read.items())


def test_a_damaged_index_is_refused_by_name_or_read_and_nothing_else(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {f"layer_{i}/kernel": np.full((2, 3), i, np.float32) for i in range(30)}, keys_a_block=8)
    good, refused = (tmp_path / INDEX).read_bytes(), 0
    random = np.random.default_rng(0)
    damaged = [good[:n] for n in range(0, len(good), 7)]
    for _ in range(400):
        copy = bytearray(good)
        copy[random.integers(len(good))] = random.integers(256)
        damaged.append(bytes(copy))
    for content in damaged:
        (tmp_path / INDEX).write_bytes(content)
        try:
            read_checkpoint(tmp_path, "install it again")
        except TeacherError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path}: holds no whole checkpoint (")
            assert str(error).endswith("; install it again")
    assert refused > len(good) // 7


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index, data: (index[:-1] + b"\0", data), "does not end as one"),
        (lambda index, data: (index, data[:-4]), "bytes 0 to 24 of 20"),
        (lambda index, data: (index[:-48] + b"\xff" * 40 + index[-8:], data), "a number does not end"),
        (lambda index, data: (b"", data), "bytes -48 to 0 of 0"),
    ],
    ids=["no table", "data too short", "no handles", "empty"],
)
def test_damage_is_named(damage: Any, message: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"a/kernel": np.ones((2, 3), np.float32)})
    content = damage((tmp_path / INDEX).read_bytes(), (tmp_path / DATA).read_bytes())
    for file, part in zip((INDEX, DATA), content, strict=True):
        (tmp_path / file).write_bytes(part)
    with pytest.raises(TeacherError, match=message):
        read_checkpoint(tmp_path, "again")


def test_a_compressed_index_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"a/kernel": np.ones((2, 3), np.float32)})
    index = bytearray((tmp_path / INDEX).read_bytes())
    trailer = index.index(bytes(4) + b"\1\0\0\0") + 8  # behind the only place that is written in full, and their number
    index[trailer] = 1  # snappy
    (tmp_path / INDEX).write_bytes(bytes(index))
    with pytest.raises(TeacherError, match="the index is compressed"):
        read_checkpoint(tmp_path, "again")


def plain_network(tensors: dict[str, np.ndarray], mel_BTM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The authors' models.py, layer by layer in their layout, with every tensor written out."""
    tf = {name: torch.from_numpy(array) for name, array in tensors.items()}

    def norm(x: torch.Tensor, number: int) -> torch.Tensor:
        scope = f"batch_normalization_{number}" if number else "batch_normalization"
        mean, variance, gamma, beta = (
            tf[f"{scope}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * gamma + beta

    def convolution(x_BTFC: torch.Tensor, number: int, before: int, after: int) -> torch.Tensor:
        scope = f"conv2d_{number}" if number else "conv2d"
        x_BCTF = F.pad(x_BTFC, (0, 0, 0, 0, before, after)).permute(0, 3, 1, 2)
        y_BCTF = F.conv2d(x_BCTF, tf[f"{scope}/kernel"].permute(3, 2, 0, 1), tf[f"{scope}/bias"])
        return y_BCTF.permute(0, 2, 3, 1).relu()

    x = norm(mel_BTM[..., None], 0)
    front = [
        norm(convolution(x, i, *padding), i + 1).amax(2)
        for i, padding in enumerate([(3, 3), (3, 3), (63, 64), (31, 32), (15, 16)])
    ]
    layers = [torch.cat(front, 2)]
    for i in range(3):
        y = norm(convolution(layers[-1][..., None], 5 + i, 3, 3)[:, :, 0], 6 + i)
        layers.append(y + layers[-1] if i else y)
    everything = torch.cat(layers, 2)
    pooled = torch.stack([everything.amax(1), everything.mean(1)], 2).flatten(1)
    embedding = norm((norm(pooled, 9) @ tf["dense/kernel"] + tf["dense/bias"]).relu(), 10)
    return embedding, embedding @ tf["dense_1/kernel"] + tf["dense_1/bias"]


@torch.no_grad()
def test_the_network_is_the_authors_layer_by_layer() -> None:
    tensors = random_tensors(1)
    tagger = tagger_of(from_tensorflow({name: torch.from_numpy(array) for name, array in tensors.items()}))
    mel_BTM = torch.rand(2, 100, 96, generator=torch.Generator().manual_seed(0)) * 4
    for got, wanted in zip(tagger(mel_BTM), plain_network(tensors, mel_BTM), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_of_other_layers_is_refused() -> None:
    tensors = {name: torch.from_numpy(array) for name, array in random_tensors(0).items()}
    with pytest.raises(KeyError, match="conv2d_3/kernel"):
        from_tensorflow({name: tensor for name, tensor in tensors.items() if name != "conv2d_3/kernel"})
    with pytest.raises(ValueError, match=r"a tensor of \[200, 51\]"):
        from_tensorflow(tensors | {"dense_1/kernel": torch.ones(200, 51)})
    with pytest.raises(RuntimeError, match="Missing key"):
        tagger_of({})


def test_the_mel_filters_are_librosas() -> None:
    """By its documentation of `mel_frequencies(40)` and its `filters.mel(sr=16000, n_fft=512, n_mels=96)`."""
    wanted = [0, 85.317, 170.635, 255.952, 341.269, 426.586, 511.904, 597.221, 682.538, 767.855, 853.173, 938.49,
              1024.856, 1119.114, 1222.042, 1334.436, 1457.167, 1591.187, 1737.532, 1897.337]  # fmt: skip
    assert mel_spaced_hz(40, 11_025)[:20] == pytest.approx(wanted, abs=1e-3)
    bank_MF = mel_bank()
    assert bank_MF.sum() == pytest.approx(3.0719137, rel=1e-6)
    assert int((bank_MF > 0).sum()) == 502
    picked = {(0, 1): 0.03199922, (95, 250): 0.00298842, (95, 255): 0.00049807}
    assert [bank_MF[at] for at in picked] == pytest.approx(list(picked.values()), abs=1e-8)


def test_the_input_is_the_authors() -> None:
    """Within the step of float16, to which mel power is rounded, of a few numbers; in the mean far below it."""
    for name, wave_1N in sounds().items():
        mel_TM = log_mel(wave_1N)[0]
        for frame, wanted in GOLDEN["sounds"][name]["mel"].items():
            error_M = (mel_TM[int(frame)] - torch.tensor(wanted)).abs()
            assert float(error_M.max()) < 5e-4 and float(error_M.mean()) < 2e-5


def test_resampling_keeps_tones_and_is_soxrs_below_the_band_edge() -> None:
    random = np.random.default_rng(0)
    for from_hz, to_hz in ((24_000, 16_000), (24_000, 22_050), (16_000, 22_050)):
        seconds = np.arange(2 * from_hz) / from_hz
        out = np.arange(2 * to_hz) / to_hz
        for hz in (50.0, 1234.5, 0.92 * min(from_hz, to_hz) / 2):
            wave_1N = torch.from_numpy(np.sin(2 * np.pi * hz * seconds).astype(np.float32))[None]
            got = resampled(wave_1N, from_hz, to_hz)[0].numpy()
            assert len(got) == len(out)
            middle = slice(to_hz // 2, -to_hz // 2)  # away from where the tone begins and ends
            assert np.abs(got - np.sin(2 * np.pi * hz * out))[middle].max() < 1e-4
        noise_N = random.standard_normal(from_hz).astype(np.float32)
        spectra = [
            np.fft.rfft(wave_N[:to_hz])
            for wave_N in (
                resampled(torch.from_numpy(noise_N)[None], from_hz, to_hz)[0],
                soxr.resample(noise_N, from_hz, to_hz),
            )
        ]
        below = slice(0, int(0.9 * min(from_hz, to_hz) / 2))  # lines of 1 Hz
        error = np.abs(spectra[0] - spectra[1])[below]
        assert np.sqrt((error**2).mean()) < 0.02 * np.sqrt((np.abs(spectra[1][below]) ** 2).mean())
    with pytest.raises(ValueError, match="multiples of 25 Hz"):
        resampled(torch.ones(1, 100), 11_025, 16_010)


def test_a_tone_above_the_new_band_does_not_come_back_as_another() -> None:
    wave_N = np.sin(2 * np.pi * 9_000 * np.arange(48_000) / 24_000).astype(np.float32)
    got = resampled(torch.from_numpy(wave_N)[None], 24_000, 16_000)[0]
    assert float(got[2_000:-2_000].abs().max()) < 1e-4


def test_a_teacher_of_the_package_is_saved_with_its_licence_and_loaded(package: Path, tmp_path: Path) -> None:
    teacher = load_teacher(str(package))
    assert isinstance(teacher, MusicnnTeacher)
    assert (teacher.n_clip_values, teacher.n_bins, teacher.n_classes, teacher.rate_hz) == (400, 0, (), 75.0)
    teacher.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "teacher.json").read_text())["licence"] == "ISC"
    again = load_teacher(str(tmp_path / "saved"))
    assert again.fingerprint == teacher.fingerprint
    wave_BN = torch.from_numpy(np.stack([music(3.0, seed=i) for i in range(2)]))
    targets = teacher.targets(wave_BN)
    assert (targets.codes, targets.frames, targets.rate_hz) == (None, None, 75.0)
    assert targets.clips is not None and targets.clips.shape == (2, 400)
    assert torch.equal(targets.clips, again.targets(wave_BN).clips)
    about = json.loads((tmp_path / "saved" / "teacher.json").read_text())
    about["settings"]["taggers"] = ["MTT", "XYZ"]
    (tmp_path / "saved" / "teacher.json").write_text(json.dumps(about))
    with pytest.raises(TeacherError, match="do not belong together"):
        load_teacher(str(tmp_path / "saved"))


def test_rows_do_not_depend_on_each_other_nor_on_autocast(package: Path) -> None:
    teacher = MusicnnTeacher.installed(package, taggers=("MSD",))
    wave_BN = torch.from_numpy(np.stack([music(3.4, seed=i) for i in range(3)]))
    together = teacher.targets(wave_BN).clips
    assert together is not None
    for row, wave_N in enumerate(wave_BN):
        assert torch.equal(together[row], teacher.targets(wave_N[None]).clips[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(together, teacher.targets(wave_BN).clips)


def test_one_tagger_or_its_tags_are_what_both_give_of_it(package: Path) -> None:
    wave_1N = torch.from_numpy(music(3.0, seed=1))[None]
    both = MusicnnTeacher.installed(package).targets(wave_1N).clips
    alone = MusicnnTeacher.installed(package, taggers=("MSD",))
    assert torch.equal(both[:, 200:], alone.targets(wave_1N).clips)
    tags = MusicnnTeacher.installed(package, taggers=("MSD",), outputs="tags")
    assert tags.n_clip_values == 50
    assert torch.allclose(tags.targets(wave_1N).clips.sigmoid(), alone.tags(at_level(wave_1N, -20))["MSD"], atol=1e-5)
    assert len({teacher.fingerprint for teacher in (alone, tags, MusicnnTeacher.installed(package))}) == 3


def test_patches_cover_a_clip(package: Path) -> None:
    """At 16 kHz: one in the middle of 3 s, one at the beginning and one at the end of 5 s, five of 12.5 s."""
    teacher = MusicnnTeacher.installed(package, taggers=("MTT",), sample_rate=16_000, level_db=None)
    for n_frames, starts in ((187, [0]), (203, [8]), (204, [0, 17]), (313, [0, 126]), (782, [0, 149, 298, 446, 595])):
        cut_BTM = patches(torch.arange(float(n_frames))[:, None])
        assert cut_BTM.shape[1] == 187
        assert cut_BTM[:, 0, 0].tolist() == starts
    wave_1N = torch.from_numpy(music(5.0, RATE_HZ, seed=2))[None]
    mel_TM = log_mel(wave_1N)[0]
    tagger = teacher.taggers["MTT"]
    ends = torch.stack([mel_TM[:187], mel_TM[-187:]])
    wanted = (tagger(ends)[0].mean(0) - tagger.hidden_norm.bias) / tagger.hidden_norm.weight
    torch.testing.assert_close(teacher.targets(wave_1N).clips[0], wanted)


def test_clips_below_a_patch_are_refused(package: Path) -> None:
    teacher = MusicnnTeacher.installed(package, taggers=("MTT",))
    with pytest.raises(TeacherError, match=r"musicnn: clips of 1.00 s are too short for it; give clip_s=3 or more"):
        teacher.targets(torch.zeros(1, 24_000))


@pytest.mark.parametrize("kind", [MusicnnTeacher, MusicnnFramesTeacher])
def test_a_clip_has_the_same_targets_at_any_level(kind: Any, package: Path) -> None:
    """As a student that normalises its input cannot know it; within the rounding of mel power to float16."""
    wave_1N = torch.from_numpy(music(3.0, seed=4))[None]
    for scale in (0.01, 0.3, 3.0):
        wanted, got = (kind.installed(package).targets(each_1N) for each_1N in (wave_1N, scale * wave_1N))
        assert rms(values_of(got) - values_of(wanted)) < 1e-3 * rms(values_of(wanted))
    as_it_is = kind.installed(package, level_db=None)
    louder, softer = (values_of(as_it_is.targets(scale * wave_1N)) for scale in (1.0, 0.3))
    assert rms(louder - softer) > 0.03 * rms(louder)
    assert values_of(kind.installed(package).targets(torch.zeros(1, 72_000))).isfinite().all()


def values_of(targets: Targets) -> torch.Tensor:
    values = targets.clips if targets.frames is None else targets.frames
    assert values is not None
    return values


def rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())


@torch.no_grad()
def test_frames_are_those_of_the_middle_layers_standardised() -> None:
    tensors = random_tensors(1)
    tagger = tagger_of(from_tensorflow({name: torch.from_numpy(array) for name, array in tensors.items()}))
    mel_BTM = torch.rand(2, 200, 96, generator=torch.Generator().manual_seed(0)) * 4
    sums = [sum_BCT for _, sum_BCT in tagger.middle_layers(tagger.front(mel_BTM))]
    given = [sums[0], sums[1] - sums[0], sums[2] - sums[1]]
    frames_BTF = tagger.middle_frames(mel_BTM)
    assert frames_BTF.shape == (2, 200, 192)
    for i, (values_BTC, given_BCT) in enumerate(zip(frames_BTF.split(64, 2), given, strict=True)):
        scope = f"batch_normalization_{6 + i}"
        gamma, beta = (torch.from_numpy(tensors[f"{scope}/{part}"]) for part in ("gamma", "beta"))
        torch.testing.assert_close(values_BTC * gamma + beta, given_BCT.transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_frames_move_with_the_music(package: Path) -> None:
    """Six frames of the student are five of the taggers; at the ends, their longest filters reach into silence."""
    teacher = MusicnnFramesTeacher.installed(package, level_db=None)
    assert (teacher.n_bins, teacher.n_clip_values, teacher.rate_hz) == (384, 0, 75.0)
    wave_1N = torch.from_numpy(music(6.5, seed=3))[None]
    early, late = (teacher.targets(each_1N).frames for each_1N in (wave_1N, wave_1N[:, 6 * 320 :]))
    assert early is not None and late is not None and early.shape == (1, (wave_1N.shape[1] - 400) // 320 + 1, 384)
    late_TF = late[0, 150:300]
    errors = {shift: rms(early[0, 150 + shift : 300 + shift] - late_TF) for shift in (5, 6, 7)}
    assert 20 * errors[6] < min(errors[5], errors[7])


def test_frames_of_a_row_do_not_depend_on_others_nor_on_autocast(package: Path) -> None:
    teacher = load_teacher_of_frames(package)
    wave_BN = torch.from_numpy(np.stack([music(1.0, seed=i) for i in range(2)]))
    together = values_of(teacher.targets(wave_BN))
    assert torch.equal(together[1], values_of(teacher.targets(wave_BN[1:]))[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(together, values_of(teacher.targets(wave_BN)))


def load_teacher_of_frames(package: Path) -> MusicnnFramesTeacher:
    """A saved and loaded one, of one tagger."""
    made = MusicnnFramesTeacher.installed(package, taggers=("MSD",))
    made.save(package / "saved")
    loaded = load_teacher(str(package / "saved"))
    assert isinstance(loaded, MusicnnFramesTeacher) and loaded.fingerprint == made.fingerprint
    return loaded


@pytest.mark.parametrize("file", [INDEX, DATA])
def test_files_that_are_not_the_published_ones_are_refused(file: str, package: Path) -> None:
    path = package / "MSD_musicnn" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(
        TeacherError, match=r"MSD_musicnn.* is not the file that musicnn 0.1.0 came with .* pip install"
    ):
        MusicnnTeacher.installed(package)
    path.unlink()
    with pytest.raises(TeacherError, match=r"cannot be read .* pip install --no-deps musicnn==0.1.0"):
        MusicnnTeacher.installed(package)


def test_settings_that_cannot_be_are_refused(package: Path) -> None:
    with pytest.raises(TeacherError, match=r"has no tagger \['AAA'\]; give one or more of \['MSD', 'MTT'\]"):
        MusicnnTeacher.installed(package, taggers=("AAA",))
    with pytest.raises(ValueError, match="neither embedding nor tags"):
        MusicnnTeacher.installed(package, outputs="all")
    with pytest.raises(ValueError, match="below 16000"):
        MusicnnTeacher.installed(package, sample_rate=12_000)


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("teachers.base.distribution", missing)
    with pytest.raises(TeacherError) as caught:
        load_teacher("musicnn")
    install = "pip install --no-deps musicnn==0.1.0 basic-pitch==0.4.0"
    assert str(caught.value) == f"musicnn: the package musicnn is not installed; {install}"


@needs_musicnn
def test_the_output_is_that_of_the_authors_code() -> None:
    """The golden file says with which software it was made."""
    teacher = MusicnnTeacher.installed(sample_rate=RATE_HZ, level_db=None)
    at_one_level = MusicnnTeacher.installed(sample_rate=RATE_HZ)  # its targets, not its tags
    for name, wave_1N in sounds().items():
        clips, tags = teacher.targets(wave_1N).clips, at_one_level.tags(wave_1N)
        assert clips is not None
        for number, tagger in enumerate(("MTT", "MSD")):
            golden, norm = GOLDEN["sounds"][name][tagger], teacher.taggers[tagger].hidden_norm
            embedding = clips[0, 200 * number : 200 * number + 200] * norm.weight + norm.bias
            assert embedding.tolist() == pytest.approx(golden["embedding"], abs=1e-4)
            assert tags[tagger][0].tolist() == pytest.approx(golden["tags"], abs=1e-5)


@needs_musicnn
@needs_reference
@pytest.mark.check
def test_recordings_have_the_tags_that_the_authors_code_gives_them() -> None:
    """Means over all whole 3 s of each recording, from files that librosa decoded and resampled by soxr for them."""
    found = {}
    for rate_hz in (RATE_HZ, 24_000):
        teacher = load_teacher("musicnn", rate_hz)
        assert isinstance(teacher, MusicnnTeacher)
        for name, golden in GOLDEN["recordings"].items():
            wave_NC, file_hz = soundfile.read(REFERENCE / "audio/music" / name, dtype="float32", always_2d=True)
            wave_1N = torch.from_numpy(soxr.resample(wave_NC.mean(1), file_hz, rate_hz))[None]
            mel_TM = log_mel(resampled(wave_1N, rate_hz, RATE_HZ))[0]
            patches_BTM = mel_TM[: len(mel_TM) // 187 * 187].unflatten(0, (-1, 187))
            for tagger, wanted in golden.items():
                with torch.no_grad():
                    got = teacher.taggers[tagger](patches_BTM)[1].sigmoid().mean(0)
                assert got.tolist() == pytest.approx(wanted, abs=1e-4 if rate_hz == RATE_HZ else 0.01), (name, tagger)
                found[name, tagger, rate_hz] = dict(zip(TAG_NAMES[tagger], got.tolist(), strict=True))
    trumpet = found["sorohanro_-_solo-trumpet-06.ogg", "MSD", 24_000]
    assert max(trumpet, key=trumpet.__getitem__) == "jazz"
