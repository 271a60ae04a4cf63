"""Features, pooling, and `.npz` files that are whole or absent, and are read without trust."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from harness.forks import FORKS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mert.embedding.features import Features, Pooling
from mert.embedding.npz import FrameWriter, read_npz, write_npz
from mert.errors import OutputError
from mert.files import _MACHINE

LAYERS = ("embed", "layer01", "layer02")


def some_values(n_layers: int = 3, n_frames: int = 20, dim: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_layers, n_frames, dim)).astype(np.float32)


def some_features(n_frames: int = 20) -> Features:
    times = (320 * np.arange(n_frames) + 200) / 24_000
    return Features(some_values(n_frames=n_frames), times, LAYERS, {"model": "tiny", "seconds": 1.5, "warnings": ["é"]})


def leftovers(folder: Path, *wanted: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in wanted)


# --------------------------------------------------------------------------------------------------- Features


def test_a_layer_is_found_by_name_only() -> None:
    features = some_features()
    for i, name in enumerate(LAYERS):
        np.testing.assert_array_equal(features.layer(name), features.values[i])
    with pytest.raises(KeyError, match=r"layer07.*embed, layer01, layer02"):
        features.layer("layer07")


def test_pooling_is_mean_and_population_deviation() -> None:
    features = some_features()
    mean = features.pool("mean")
    np.testing.assert_allclose(mean.values, features.values.mean(axis=1), atol=1e-6)
    both = features.pool("meanstd")
    np.testing.assert_allclose(both.values[:, :4], mean.values, atol=0)
    np.testing.assert_allclose(both.values[:, 4:], features.values.std(axis=1, ddof=0), atol=1e-6)
    assert mean.times is None and mean.values.dtype == both.values.dtype == np.float32
    assert mean.layers == LAYERS and mean.meta == features.meta | {"pool": "mean"} and "pool" not in features.meta


def test_pooling_twice_or_in_an_unknown_way_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"already pooled \(mean\)"):
        some_features().pool("mean").pool("mean")
    with pytest.raises(ValueError, match="median"):
        some_features().pool("median")  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), unique=True), offset=st.sampled_from([0.0, 1e3]), seed=st.integers(0, 99))
def test_pooling_piece_by_piece_is_pooling_at_once(cuts: list[int], offset: float, seed: int) -> None:
    values = (some_values(2, 40, 3, seed) + offset).astype(np.float32)
    pieces = Pooling("meanstd")
    for piece in np.split(values, sorted(cuts), axis=1):
        pieces.add(piece)
    exact = values.astype(np.float64)
    wanted = np.concatenate([exact.mean(axis=1), exact.std(axis=1)], axis=-1)
    np.testing.assert_allclose(pieces.result(), wanted, rtol=2e-7, atol=1e-7)


def test_the_deviation_of_one_frame_and_of_constants_is_zero() -> None:
    constant = np.full((1, 30, 2), 12345.678, np.float32)
    for values in (constant[:, :1], constant):
        pooled = Pooling("meanstd")
        pooled.add(values)
        np.testing.assert_allclose(pooled.result(), [[12345.678, 12345.678, 0, 0]], atol=1e-9, rtol=1e-7)


def test_mean_and_deviation_are_computed_in_float64() -> None:
    pooled = Pooling("meanstd")
    for _ in range(100):
        pooled.add(np.array([[[1e4 + 0.001], [1e4 - 0.001]]]))
    np.testing.assert_allclose(pooled.result(), [[1e4, 0.001]], rtol=1e-6)


@pytest.mark.parametrize("pool", [None, "mean", "meanstd"])
def test_loading_is_the_inverse_of_saving(pool: str | None, tmp_path: Path) -> None:
    features = some_features()
    features = features.pool(pool) if pool else features  # type: ignore[arg-type]
    features.save(tmp_path / "deep" / "er" / "é.npz")
    again = Features.load(tmp_path / "deep" / "er" / "é.npz")
    np.testing.assert_array_equal(again.values, features.values)
    assert again.layers == features.layers and again.meta == features.meta
    if pool:
        assert again.times is None
    else:
        np.testing.assert_array_equal(again.times, features.times)
        assert again.times is not None and again.times.dtype == np.float64
    assert Features.load_meta(tmp_path / "deep" / "er" / "é.npz") == features.meta | {"layers": list(LAYERS)}


def test_plain_numpy_reads_what_is_saved(tmp_path: Path) -> None:
    features = some_features()
    features.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["layers", "meta", "times", "values"]
        np.testing.assert_array_equal(arrays["values"], features.values)
        assert tuple(arrays["layers"]) == LAYERS and json.loads(str(arrays["meta"])) == features.meta


def test_equal_features_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        some_features().save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert leftovers(tmp_path, "a.npz", "b.npz") == []


def test_a_file_is_replaced(tmp_path: Path) -> None:
    some_features(30).save(tmp_path / "a.npz")
    some_features(7).save(tmp_path / "a.npz")
    assert Features.load(tmp_path / "a.npz").values.shape == (3, 7, 4)


# ------------------------------------------------------------------------------------------ read without trust


class _Trap:
    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (open, (str(Path(os.environ["TRAP"])), "w"))  # type: ignore[return-value]


def npz_of(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


GOOD = {
    "values.npy": npy(some_values()),
    "times.npy": npy(np.arange(20.0)),
    "layers.npy": npy(np.array(LAYERS)),
    "meta.npy": npy(np.array("{}")),
}


def refused(path: Path, data: bytes, reason: str | None = None) -> None:
    path.write_bytes(data)
    for read in (Features.load, Features.load_meta):
        with pytest.raises(OutputError, match=reason) as caught:
            read(path)
        assert caught.value.source == str(path) and caught.value.remedy


def test_a_plain_npz_of_the_same_keys_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_of(GOOD))
    assert Features.load(tmp_path / "a.npz").layers == LAYERS


def test_a_compressed_npz_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    refused(tmp_path / "a.npz", npz_of(GOOD, zipfile.ZIP_DEFLATED), "compressed")
    np.savez_compressed(tmp_path / "b.npz", values=np.zeros(10**7))
    refused(tmp_path / "c.npz", (tmp_path / "b.npz").read_bytes(), "compressed")


def test_a_pickled_array_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "trapped"))
    trap = npy(np.array([_Trap()], dtype=object))
    for key in ("layers.npy", "meta.npy"):
        refused(tmp_path / "a.npz", npz_of(GOOD | {key: trap}))
    refused(tmp_path / "b.npz", pickle.dumps(_Trap()))
    with pytest.raises(OutputError):
        (tmp_path / "c.npz").write_bytes(npz_of(GOOD | {"values.npy": trap}))
        Features.load(tmp_path / "c.npz")
    assert not (tmp_path / "trapped").exists()
    gc.collect()  # a refused file that stays open is a ResourceWarning


@pytest.mark.parametrize("missing", ["values", "layers", "meta"])
def test_a_missing_key_is_named(missing: str, tmp_path: Path) -> None:
    rest = {name: data for name, data in GOOD.items() if name != f"{missing}.npy"}
    refused(tmp_path / "a.npz", npz_of(rest), f"no {missing}")


@pytest.mark.parametrize("data", [b"", b"PK", b"hello" * 100, b"PK\x05\x06" + bytes(18), npy(some_values())])
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    refused(tmp_path / "a.npz", data)


def test_features_are_arrays_and_tensors_and_cut_by_time() -> None:
    features = some_features(200)
    assert np.array_equal(np.asarray(features), features.values)
    assert np.asarray(features, np.float64).dtype == np.float64
    assert np.shares_memory(features.to_torch().numpy(), features.values)
    part = features.between(1.0, 2.0)
    assert part.times is not None and len(part.times) == 75 and 1.0 <= part.times[0] < part.times[-1] < 2.0
    assert np.array_equal(part.values, features.values[:, 75:150])
    with pytest.raises(ValueError, match="no time axis"):
        features.pool("mean").between(0, 1)


def test_a_layer_has_a_name_and_a_number() -> None:
    features = Features(some_values(), None, ("embed", "layer05", "layer12"))
    for number, name in ((0, "embed"), (5, "layer05"), (12, "layer12"), (-1, "layer12"), (-3, "embed")):
        assert np.array_equal(features.layer(number), features.layer(name))
    for wrong in (1, 13, -4, "layer5"):
        with pytest.raises(KeyError, match=r"no layer .* among embed, layer05, layer12"):
            features.layer(wrong)


def test_features_are_shown_in_one_line() -> None:
    shown = repr(some_features())
    assert shown == "Features(tiny: embed to layer02, 20 frames of 4 values)"
    assert repr(some_features().pool("mean")) == "Features(tiny: embed to layer02, pooled to 4 values)"


@pytest.mark.parametrize("descr", ["<U0", "|V0", "|S0", "<U7", "<f8"])
def test_an_array_that_announces_more_than_the_file_holds_is_refused_at_once(descr: str, tmp_path: Path) -> None:
    before = time.process_time()
    refused(tmp_path / "a.npz", npz_of(GOOD | {"layers.npy": npy_header((10**9,), descr)}), "announces")
    assert time.process_time() - before < 1


def test_many_entries_a_scalar_of_layers_and_a_deep_meta_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "a.npz", npz_of(GOOD | {f"{i}.npy": b"" for i in range(1_000)}), "too many entries")
    refused(tmp_path / "b.npz", npz_of(GOOD | {"layers.npy": npy(np.array("embed"))}), "not a list of names")
    refused(tmp_path / "d.npz", npz_of(GOOD | {"layers.npy": npy(np.zeros(0, "<U0"))}), "not a list of names")
    (tmp_path / "e.npz").write_bytes(npz_of(GOOD | {"values.npy": npy(np.zeros((1, 0, 4), np.float32))}))
    with pytest.raises(OutputError, match="holds no values"):
        Features.load(tmp_path / "e.npz")
    deep = npy(np.array("[" * 100_000))
    refused(tmp_path / "c.npz", npz_of(GOOD | {"meta.npy": deep}), "not a JSON object")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.npz", "is not there; check the path"), (tmp_path, "not a features file")):
        with pytest.raises(OutputError, match=reason):
            Features.load(path)


def test_text_that_is_no_json_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "a.npz", npz_of(GOOD | {"meta.npy": npy(np.array("{not json"))}))


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2**62,), (2**40, 2**40), (10, 10**6)])
def test_a_header_that_announces_more_than_there_is_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_of(GOOD | {"values.npy": npy_header(shape) + bytes(400)}))
    with pytest.raises(OutputError):
        Features.load(tmp_path / "a.npz")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    some_features().save(tmp_path / "whole.npz")
    data = (tmp_path / "whole.npz").read_bytes()
    refused(tmp_path / "cut.npz", data[: int(share * len(data))])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_changes_nothing(data: st.DataObject, tmp_path: Path) -> None:
    some_features().save(tmp_path / "whole.npz")
    broken = bytearray((tmp_path / "whole.npz").read_bytes())
    bit = data.draw(st.integers(0, 8 * len(broken) - 1))
    broken[bit // 8] ^= 1 << bit % 8
    (tmp_path / "broken.npz").write_bytes(broken)
    try:
        got = Features.load(tmp_path / "broken.npz")
    except OutputError:
        return
    wanted = some_features()
    np.testing.assert_array_equal(got.values, wanted.values)
    assert got.layers == wanted.layers and got.meta == wanted.meta


# ------------------------------------------------------------------------------------------------ FrameWriter


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 20), max_size=6), dtype=st.sampled_from(["float32", "float16"]))
def test_writing_frame_by_frame_gives_the_bytes_of_writing_at_once(cuts: list[int], dtype: str, tmp_path: Path) -> None:
    values, times = some_values(), np.arange(20.0)
    write_npz(tmp_path / "whole.npz", {"values": values.astype(dtype), "times": times, "layers": np.array(LAYERS)})
    with FrameWriter(tmp_path / "pieces.npz", dtype) as writer:
        for piece in np.split(values, sorted(cuts), axis=1):
            writer.add(piece)
        assert writer.n_frames == 20
        writer.finish(times=times, layers=np.array(LAYERS))
    whole, pieces = (read_npz(tmp_path / name, ("values", "times")) for name in ("whole.npz", "pieces.npz"))
    for key, array in whole.items():
        np.testing.assert_array_equal(pieces[key], array)
        assert pieces[key].dtype == array.dtype
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "pieces.npz").read_bytes()
    assert leftovers(tmp_path, "whole.npz", "pieces.npz") == []


def test_the_output_is_not_there_before_it_is_finished_and_nothing_is_left_without(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with FrameWriter(path, "float32") as writer:
        writer.add(some_values())
        assert not path.exists() and len(leftovers(tmp_path)) == 1
        assert all(name.startswith(".") for name in leftovers(tmp_path))
    assert leftovers(tmp_path) == []
    with pytest.raises(RuntimeError), FrameWriter(path, "float32") as writer:
        writer.add(some_values())
        raise RuntimeError("stop")
    assert leftovers(tmp_path) == []


def test_an_interrupted_rewrite_leaves_the_old_file(tmp_path: Path) -> None:
    some_features().save(tmp_path / "a.npz")
    with FrameWriter(tmp_path / "a.npz", "float32") as writer:
        writer.add(some_values(seed=1))
    np.testing.assert_array_equal(Features.load(tmp_path / "a.npz").values, some_values())


@pytest.mark.parametrize("value", [65_520.0, -1e6, np.inf])
def test_values_that_do_not_fit_float16_are_an_error(value: float, tmp_path: Path) -> None:
    values = some_values()
    values[1, 2, 3] = value
    with (
        pytest.raises(OutputError, match=r"does not fit float16.*float32"),
        FrameWriter(tmp_path / "a.npz", "float16") as writer,
    ):
        writer.add(some_values())
        writer.add(values)
    assert leftovers(tmp_path) == []


def test_the_largest_float16_is_kept(tmp_path: Path) -> None:
    with FrameWriter(tmp_path / "a.npz", "float16") as writer:
        writer.add(np.full((1, 2, 3), 65_504, np.float32))
        writer.finish()
    assert (read_npz(tmp_path / "a.npz", ("values",))["values"] == 65_504).all()


def test_a_disk_that_fails_is_an_output_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    some_features().save(tmp_path / "a.npz")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.npz: cannot be written \(No space left on device\)"):
        some_features(5).save(tmp_path / "a.npz")
    assert leftovers(tmp_path, "a.npz") == []
    assert Features.load(tmp_path / "a.npz").values.shape[1] == 20


def test_a_parent_that_is_a_file_and_a_name_too_long_are_output_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.npz", tmp_path / ("a" * 300 + ".npz")):
        with pytest.raises(OutputError, match="cannot be written"):
            some_features().save(path)
        with pytest.raises(OutputError), FrameWriter(path, "float32") as writer:
            writer.add(some_values())
            writer.finish()
    assert leftovers(tmp_path, "file") == []


# --------------------------------------------------------------------------------------------- many and killed


def write_many_times(path: str, seed: int, barrier: object = None) -> None:
    if barrier is not None:
        barrier.wait()  # type: ignore[attr-defined]
    for _ in range(5):
        write_npz(path, {"values": np.full((2, 50, 8), seed, np.float32)})
        with FrameWriter(path, "float32") as writer:
            writer.add(np.full((2, 25, 8), seed, np.float32))
            writer.add(np.full((2, 25, 8), seed, np.float32))
            writer.finish()


def assert_one_valid_file(path: Path) -> None:
    values = read_npz(path, ("values",))["values"]
    assert values.shape == (2, 50, 8) and values.min() == values.max()
    assert leftovers(path.parent, path.name) == []


def test_eight_threads_writing_one_output_leave_one_whole_file(tmp_path: Path) -> None:
    threads = [threading.Thread(target=write_many_times, args=(str(tmp_path / "a.npz"), i)) for i in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "a.npz").exists():  # at all times, what is visible is whole
            values = read_npz(tmp_path / "a.npz", ("values",))["values"]
            assert values.min() == values.max()
    assert_one_valid_file(tmp_path / "a.npz")


def test_eight_processes_writing_one_output_leave_one_whole_file(tmp_path: Path) -> None:
    barrier = FORKS.Barrier(8)
    path = tmp_path / "a.npz"
    processes = [FORKS.Process(target=write_many_times, args=(str(path), i, barrier)) for i in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert_one_valid_file(path)


def temporary_folder_of(path: Path, pid: int, host: str | None = None) -> Path:
    """A leftover of process `pid`, named as a real one is."""
    before = set(path.parent.iterdir())
    with FrameWriter(path, "float32"):
        (real,) = set(path.parent.iterdir()) - before
    name = real.name.replace(f".{os.getpid()}.", f".{pid}.")
    if host:
        name = name.replace(f".{_MACHINE}.", f".{host}.")
    folder = path.parent / name
    folder.mkdir()
    (folder / "0.raw").write_bytes(bytes(1000))
    return folder


def save_in_a_new_process(path: Path) -> None:
    code = (
        "import sys, numpy as np; from mert.embedding.npz import write_npz; write_npz(sys.argv[1], {'a': np.zeros(3)})"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_folders_of_dead_processes_are_removed_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    path = tmp_path / "a.npz"
    living = temporary_folder_of(path, os.getppid())
    elsewhere = temporary_folder_of(path, finished.pid, host="0123456789ab")
    forgotten = temporary_folder_of(path, finished.pid, host="ba9876543210")
    for old in (forgotten / "0.raw", forgotten):
        os.utime(old, (0, 0))
    dead = temporary_folder_of(path, finished.pid)
    foreign = tmp_path / ".cache.1.tmp"
    foreign.mkdir()
    save_in_a_new_process(path)
    assert leftovers(tmp_path, "a.npz") == sorted([living.name, elsewhere.name, foreign.name])
    assert not dead.exists() and not forgotten.exists()


def machine_of(host: str) -> str:
    """What stands for the machine in the names of temporary files on a host of this name, in name spaces of its own."""
    code = "import socket, sys; socket.sethostname(sys.argv[1]); from mert.files import _MACHINE; print(_MACHINE)"
    command = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, host]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unshare" in done.stderr:
        pytest.skip("this system lets nobody make name spaces")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_machines_and_containers_with_like_names_are_told_apart() -> None:
    pods = [machine_of(f"mert-embed-large-corpus-batch-job-{name}") for name in ("0-abcde", "1-fghij")]
    assert len({*pods, _MACHINE, machine_of(socket.gethostname())}) == 4


def test_a_killed_writer_leaves_no_output_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    code = (
        "import os, sys, numpy as np; from mert.embedding.npz import FrameWriter\n"
        "with FrameWriter(sys.argv[1], 'float32') as writer:\n"
        "    writer.add(np.zeros((2, 3, 4), np.float32)); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "a.npz"
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -9 and not path.exists() and len(leftovers(tmp_path)) == 1
    save_in_a_new_process(path)
    assert leftovers(tmp_path, "a.npz") == []


def test_names_do_not_collide_whatever_they_are(tmp_path: Path) -> None:
    names = ["a.npz", "[a].npz", "*.npz", "-a.npz", "a\nb.npz", " .npz", "é" * 100 + ".npz", "a" * 251 + ".npz"]
    for i, name in enumerate(names):
        some_features(i + 1).save(tmp_path / name)
    for i, name in enumerate(names):
        assert Features.load(tmp_path / name).values.shape[1] == i + 1
    assert leftovers(tmp_path, *names) == []


def digests(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        yield sha256(path.read_bytes()).hexdigest()


def test_bytes_do_not_depend_on_memory_layout_or_folder(tmp_path: Path) -> None:
    values = some_values()
    for name, layout in (("a", values), ("b", np.asfortranarray(values)), ("c", np.flip(np.flip(values, 1).copy(), 1))):
        Features(layout, np.arange(20.0), LAYERS, {}).save(tmp_path / name / "x.npz")
    assert len({next(digests(tmp_path / name)) for name in "abc"}) == 1
