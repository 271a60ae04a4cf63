"""The folder of a run may come from a stranger: reading its checkpoints runs no code in them, and always ends."""

import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.distributed.checkpoint.metadata as dcp_metadata
from harness.forks import FORKS
from harness.mutation import Canary
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from mert.errors import CheckpointError, UsageError
from mert.files import sha256_file, write_json
from mert.train.checkpoints import Checkpoints, damage
from mert.train.parallel import World
from mert.train.run_folder import only_run

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is", "ignore:TypedStorage is deprecated")
ALONE = World(0, 1, torch.device("cpu"))


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return Checkpoints(tmp_path / "run", ALONE, 1).save(3, *trained(), {"seen": 7})


def mark(path: Path) -> None:
    """Write the marker of a checkpoint, right for the files as they are."""
    files = {file.name: [file.stat().st_size, sha256_file(file)] for file in path.iterdir()}
    write_json(path / "COMPLETE.json", {"step": 3, "state": {}, "files": files})


def load(path: Path) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Load into a model of zeros, in a thread of its own: a reader that hangs fails the test and does not stop it."""
    model, optimizer = trained()
    nn.init.zeros_(model.weight)
    failed: list[BaseException] = []

    def read() -> None:
        try:
            Checkpoints(path.parents[1], ALONE, 1).load(path, model, optimizer)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "loading does not end"
    if failed:
        raise failed[0]
    return model, optimizer


def test_what_was_saved_is_loaded(saved: Path) -> None:
    model, optimizer = load(saved)
    before, moments = trained()
    assert torch.equal(model.weight, before.weight)
    for parameter, other in zip(model.parameters(), before.parameters(), strict=True):
        assert all(torch.equal(value, moments.state[other][name]) for name, value in optimizer.state[parameter].items())


def test_metadata_runs_no_code(saved: Path, tmp_path: Path) -> None:
    (saved / ".metadata").write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    mark(saved)
    with pytest.raises(CheckpointError, match="is damaged"):
        load(saved)
    assert not (tmp_path / "ran").exists()


class Attribute:
    """An object that is read as an attribute of another."""

    def __init__(self, owner: object, name: str) -> None:
        self.asked = owner, name

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, str]]:
        return getattr, self.asked


def test_metadata_of_any_python_are_read_and_no_other_attribute(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = dcp_metadata._MEM_FORMAT_ENCODING
    metadata = dcp.FileSystemReader(saved).read_metadata()
    for is_member, owner, name in (
        (True, kind, "TORCH_CONTIGUOUS_FORMAT"), (False, dcp_metadata.Metadata, "__init__"),
    ):  # fmt: skip
        states = (torch.float32, torch.strided, False, Attribute(owner, name), False)
        monkeypatch.setattr(dcp_metadata.TensorProperties, "__getstate__", lambda self, states=states: states)
        (saved / ".metadata").write_bytes(pickle.dumps(metadata))
        mark(saved)
        if is_member:
            load(saved)
        else:
            with pytest.raises(CheckpointError, match="is damaged"):
                load(saved)


def test_settings_of_an_optimizer_run_no_code_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run" / "ckpt" / "step_00000003"
    model, optimizer = trained()
    weights, moments = get_state_dict(model, optimizer)
    moments["param_groups"][0]["lr"] = Canary(tmp_path / "ran")  # type: ignore[index]
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=path, no_dist=True)
    mark(path)
    assert load(path)[1].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert not (tmp_path / "ran").exists()


def test_a_tensor_runs_no_code(saved: Path, tmp_path: Path) -> None:
    reader = dcp.FileSystemReader(saved)
    metadata = reader.read_metadata()
    torch.save(Canary(tmp_path / "ran"), saved / "canary.distcp")
    for place in metadata.storage_data.values():
        place.relative_path, place.offset = "canary.distcp", 0
        place.length = (saved / "canary.distcp").stat().st_size
    (saved / ".metadata").write_bytes(pickle.dumps(metadata))
    mark(saved)
    with pytest.raises(CheckpointError, match="is damaged"):
        load(saved)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../step_00000003/__0_0.distcp", "/etc/hostname", ".."])
def test_only_files_of_the_checkpoint_are_read(saved: Path, name: str) -> None:
    metadata = dcp.FileSystemReader(saved).read_metadata()
    for place in metadata.storage_data.values():
        place.relative_path = name
    (saved / ".metadata").write_bytes(pickle.dumps(metadata))
    mark(saved)
    with pytest.raises(CheckpointError, match=r"is not one of its files|is damaged"):
        load(saved)


def test_keys_that_take_for_ever_to_hash_are_refused(saved: Path) -> None:
    (saved / ".metadata").write_bytes(b"\x80\x02}" + b")" + b"2\x86" * 60 + b"K\x01s.")
    mark(saved)
    with pytest.raises(CheckpointError, match="is damaged"):
        load(saved)


@pytest.mark.parametrize("marker", [{}, {"files": []}, {"files": {"a": 5}, "step": 1, "state": {}}, {"files": {}}])
def test_a_malformed_marker_is_a_damaged_checkpoint(saved: Path, marker: dict) -> None:
    write_json(saved / "COMPLETE.json", marker)
    assert "its marker cannot be read" in str(damage(saved))


def hold(folder: Path, started: object, end: object) -> None:
    with only_run(folder, 0):
        started.set()  # type: ignore[attr-defined]
        end.wait(60)  # type: ignore[attr-defined]


def test_two_runs_in_one_folder_are_refused_and_a_killed_one_is_not_in_the_way(tmp_path: Path) -> None:
    started, end = FORKS.Event(), FORKS.Event()
    other = FORKS.Process(target=hold, args=(tmp_path, started, end))
    other.start()
    assert started.wait(60)
    with pytest.raises(UsageError, match="another run trains into it"), only_run(tmp_path, 0):
        pass
    with only_run(tmp_path, 1):  # the other processes of one run
        pass
    other.kill()
    other.join()
    with only_run(tmp_path, 0):
        pass
