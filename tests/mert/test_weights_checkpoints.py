"""Reading published weights, refusing hostile and damaged ones, and writing formats that others load."""

import argparse
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.oracle import states_of
from safetensors.torch import load_file, save_file

from mert.errors import CheckpointError, OutputError
from mert.files import sha256_file
from mert.models.config import MertConfig, base_95m
from mert.models.mert import Mert
from mert.weights import checkpoints, formats
from mert.weights.cards import read_card
from mert.weights.checkpoints import export_hubert, load_model, load_state, read_checkpoint, write_model

TINY = MertConfig(
    dim=64, n_layers=2, n_heads=1, ffn_dim=128, conv_dim=16, position_kernel=16, position_groups=4, dropout=0.0
)


def tiny(**changes: Any) -> Mert:
    torch.manual_seed(0)
    return Mert(replace(TINY, **changes)).eval()


def hf_state(model: Mert) -> dict[str, torch.Tensor]:
    table = formats.names(model.config, "huggingface")
    return OrderedDict((table[name], tensor.clone()) for name, tensor in model.state_dict().items())


def write_hf(model: Mert, folder: Path, state: object = None, **config: object) -> Path:
    """The layout of m-a-p's repositories: config.json and pytorch_model.bin."""
    folder.mkdir(exist_ok=True)
    values = {**formats.to_huggingface(model.config), "model_type": "mert_model", **config}
    (folder / "config.json").write_text(json.dumps(values))
    torch.save(hf_state(model) if state is None else state, folder / "pytorch_model.bin")
    return folder


class Dictionary:  # stands for fairseq.data.dictionary.Dictionary
    def __init__(self) -> None:
        self.symbols, self.count = ["<s>", "0 1"], {"<s>": 1}


def fairseq_tree(model: Mert, half: bool = False) -> dict[str, Any]:
    table = formats.names(model.config, "fairseq")
    state = {table[name]: tensor.half() if half else tensor for name, tensor in model.state_dict().items()}
    state |= {"final_proj.weight": torch.zeros(8, 64), "label_embs_concat": torch.zeros(4, 4),
              "encoder_cqt_model.spec_layer.lenghts": torch.zeros(3, dtype=torch.int64)}  # fmt: skip
    return {
        "args": None,
        "cfg": {"_name": None, "model": argparse.Namespace(layer_norm_first=model.config.pre_norm)},
        "model": state,
        "criterion": None,
        "task_state": {"dictionaries": [Dictionary()]},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(50_000)}}},
    }


def assert_same(model: Mert, other: Mert) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def rewrite(source: Path, target: Path, edit: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """Copy a zip; `edit(name, data)` gives each entry's new bytes, None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            data = edit(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


@pytest.mark.parametrize("pre_norm", [False, True])
def test_our_format_round_trips(tmp_path: Path, pre_norm: bool) -> None:
    model = tiny(pre_norm=pre_norm, window_s=7.0)
    write_model(model, tmp_path / "new" / "folder")
    loaded, checkpoint, report = load_model(tmp_path / "new" / "folder")
    assert_same(model, loaded)
    assert loaded.config == model.config and checkpoint.source_format == "mert-hub"
    assert str(report) == "51 of 51 tensors"
    assert checkpoint.sha256 == sha256_file(tmp_path / "new/folder/model.safetensors")
    assert sorted(os.listdir(tmp_path / "new/folder")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("pre_norm", [False, True])
def test_published_hugging_face_layout_loads(tmp_path: Path, pre_norm: bool) -> None:
    model = tiny(pre_norm=pre_norm)
    folder = write_hf(model, tmp_path / "hf")
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 24000}')
    for path in (folder, folder / "pytorch_model.bin"):
        loaded, checkpoint, report = load_model(path)
        assert_same(model, loaded)
        assert not loaded.config.normalize and str(report) == "51 of 51 tensors"
    assert checkpoint.source_format == "huggingface" and checkpoint.weights_file.name == "pytorch_model.bin"


def test_safetensors_are_preferred_and_modern_weight_norm_is_read(tmp_path: Path) -> None:
    model = tiny()
    folder = write_hf(model, tmp_path / "hf", {"junk": torch.zeros(1)})
    spelling = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    state = {name.replace("weight_g", spelling["weight_g"]).replace("weight_v", spelling["weight_v"]): tensor
             for name, tensor in hf_state(model).items()}  # fmt: skip
    save_file(state, folder / "model.safetensors")
    assert_same(model, load_model(folder)[0])
    assert_same(model, load_model(folder / "model.safetensors")[0])


def test_half_precision_files_are_read_as_float32(tmp_path: Path) -> None:
    model = tiny()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        folder = write_hf(model, tmp_path / str(dtype), {k: v.to(dtype) for k, v in hf_state(model).items()})
        loaded, _, _ = load_model(folder)
        for name, tensor in loaded.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, model.state_dict()[name].to(dtype).float())


@pytest.mark.parametrize(("pre_norm", "half"), [(False, False), (True, False), (True, True)])
def test_fairseq_checkpoints_load_and_heads_are_named(tmp_path: Path, pre_norm: bool, half: bool) -> None:
    model = tiny(pre_norm=pre_norm, window_s=5.12 if pre_norm else 5.0)
    torch.save(fairseq_tree(model, half), tmp_path / "model.pt")
    loaded, checkpoint, report = load_model(tmp_path / "model.pt")
    if not half:
        assert_same(model, loaded)
    assert checkpoint.dropped == ("final_proj.weight", "label_embs_concat", "encoder_cqt_model.spec_layer.lenghts")
    assert str(report) == "51 of 51 tensors, 3 others not used"
    assert checkpoint.source_format == "fairseq" and loaded.config.pre_norm is pre_norm
    assert (loaded.config.dim, loaded.config.n_heads, loaded.config.window_s) == (64, 1, model.config.window_s)


def test_optimizer_state_is_never_read(tmp_path: Path) -> None:
    torch.save(fairseq_tree(tiny()), tmp_path / "full.pt")

    def without_optimizer(name: str, data: bytes) -> bytes | None:
        return None if len(data) == 200_000 else data

    rewrite(tmp_path / "full.pt", tmp_path / "model.pt", without_optimizer)
    assert (tmp_path / "full.pt").stat().st_size - (tmp_path / "model.pt").stat().st_size > 190_000
    assert_same(tiny(), load_model(tmp_path / "model.pt")[0])


def test_views_of_shared_storages_are_read(tmp_path: Path) -> None:
    model = tiny()
    state = hf_state(model)
    square = state["encoder.layers.0.attention.q_proj.weight"]
    flat = torch.cat([torch.zeros(5), square.T.reshape(-1)])
    state["encoder.layers.0.attention.q_proj.weight"] = flat[5:].view(64, 64).T
    assert_same(model, load_model(write_hf(model, tmp_path / "hf", state))[0])


class Malicious:
    def __init__(self, function: Any, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.function, self.args


def test_hostile_objects_do_nothing(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    model = tiny()
    tree = {**fairseq_tree(model), "extra": Malicious(os.system, f"touch {target}"),
            "code": Malicious(exec, f"open({str(target)!r}, 'w')")}  # fmt: skip
    torch.save(tree, tmp_path / "model.pt")
    assert_same(model, load_model(tmp_path / "model.pt")[0])
    state = {**hf_state(model), "masked_spec_embed": Malicious(os.system, f"touch {target}")}
    with pytest.raises(CheckpointError, match="masked_spec_embed is not a tensor"):
        read_checkpoint(write_hf(model, tmp_path / "hf", state))
    with pytest.raises(CheckpointError, match="no state dict"):
        read_checkpoint(write_hf(model, tmp_path / "hf", Malicious(os.system, f"touch {target}")))
    assert not target.exists()


HOSTILE = {
    "memo bomb": b"\x80\x02]r\xff\xff\xff\x7f.",
    "bytearray bomb": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "extension registry": b"\x80\x02\x82\x01.",
    "state set on a class": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
    "attributes set on a container": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",
    "nothing": b"",
    "noise": bytes(range(256)),
    "deep": b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".",
    "malformed storage": b"\x80\x02K\x01Q.",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_opcodes_are_errors(tmp_path: Path, kind: str) -> None:
    folder = write_hf(tiny(), tmp_path / "hf")
    source = folder / "pytorch_model.bin"
    rewrite(source, tmp_path / "new", lambda name, data: HOSTILE[kind] if name.endswith("data.pkl") else data)
    os.replace(tmp_path / "new", source)
    with pytest.raises(CheckpointError):
        load_model(folder)


def test_lying_archives_are_errors(tmp_path: Path) -> None:
    folder = write_hf(tiny(), tmp_path / "hf")
    weights = folder / "pytorch_model.bin"
    original = weights.read_bytes()
    (tmp_path / "original").write_bytes(original)

    def refuses(match: str, edit: Any = lambda name, data: data, compression: int = zipfile.ZIP_STORED) -> None:
        rewrite(tmp_path / "original", weights, edit, compression)
        with pytest.raises(CheckpointError, match=match):
            read_checkpoint(folder)

    refuses("compressed", compression=zipfile.ZIP_DEFLATED)
    refuses("numbers are not in the file", lambda name, data: None if name.endswith("data/3") else data)
    refuses("numbers are not in the file", lambda name, data: data[:-4] if name.endswith("data/3") else data)
    refuses("byte order", lambda name, data: b"big" if name.endswith("byteorder") else data)
    refuses("no data.pkl", lambda name, data: None if name.endswith("data.pkl") else data)
    flipped = bytearray(original)
    flipped[len(original) // 2] ^= 1
    weights.write_bytes(flipped)
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)
    for size in (0, 10, 1000, len(original) // 2, len(original) - 1):
        weights.write_bytes(original[:size])
        with pytest.raises(CheckpointError, match="truncated"):
            read_checkpoint(folder)


def test_what_only_ends_like_an_archive_is_an_error(tmp_path: Path) -> None:
    """An end of a zip file on several disks, which the standard library refuses while it looks whether it is one."""
    folder = write_hf(tiny(), tmp_path / "hf")
    end = struct.pack("<4sLQL", b"PK\x06\x07", 5, 0, 9) + b"PK\x05\x06" + bytes(18)
    (folder / "pytorch_model.bin").write_bytes(bytes(60) + end)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        read_checkpoint(folder)


def test_a_pipe_for_a_card_is_no_card(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "README.md")
    assert read_card(tmp_path) == {}


def test_tensors_larger_than_their_storage_are_errors(tmp_path: Path) -> None:
    model = tiny()
    for view in (torch.zeros(1).expand(10**9), torch.zeros(0)):
        state = {**hf_state(model), "masked_spec_embed": view}
        with pytest.raises(CheckpointError, match="does not fit its"):
            read_checkpoint(write_hf(model, tmp_path / "hf", state))


def nested(depth: int) -> bytes:
    """A dictionary whose key is a tuple of twice the same, and so on: hashing it takes 2 ** depth steps."""
    twice = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))
    return b"\x80\x02})" + twice + b"K\x01s."


def alike(n: int) -> bytes:
    """A dictionary of `n` integers of one hash: filling it takes n ** 2 steps."""
    numbers = (((2**61 - 1) * (i + 1)).to_bytes(16, "little") for i in range(n))
    return b"\x80\x02}(" + b"".join(b"\x8a\x10" + number + b"K\x01" for number in numbers) + b"u."


HANGING = {
    "a key of nested tuples": nested(60),
    "the same by DUP": b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.",
    "the same in an OrderedDict": b"\x80\x02ccollections\nOrderedDict\n(])"
    + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60)) + b"K\x01\x86atR.",
    "keys of one hash": alike(100_000),
    "a set of nested tuples": b"\x80\x04\x8f()" + nested(60)[4:-4] + b"\x90.",
    "a large number": b"\x80\x02}X\x01\x00\x00\x00a\x8b" + (10**6).to_bytes(4, "little") + b"\x01" * 10**6 + b"s.",
}  # fmt: skip


@pytest.mark.parametrize("data", HANGING.values(), ids=HANGING)
def test_a_pickle_that_would_take_for_ever_is_refused_at_once(data: bytes, tmp_path: Path) -> None:
    folder = write_hf(tiny(), tmp_path / "hf")
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    begun = time.process_time()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(folder)
    assert time.process_time() - begun < 5


def test_files_of_other_kinds_are_errors(tmp_path: Path) -> None:
    model = tiny()
    folder = write_hf(model, tmp_path / "hf")
    torch.save(hf_state(model), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch < 1\.6"):
        read_checkpoint(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="bare pickle"):
        read_checkpoint(folder)
    torch.save(hf_state(model), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_checkpoint(folder)
    (tmp_path / "model.onnx").touch()
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "model.onnx", tmp_path / "empty", tmp_path / "absent", tmp_path / "absent.pt"):
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    for text in ("{", "[1]", "\xff"):
        (folder / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read_checkpoint(folder)


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    state = hf_state(tiny())
    state["encoder.layer_norm.Weight"] = state.pop("encoder.layer_norm.weight")
    state["masked_spec_embed"] = torch.zeros(63)
    with pytest.raises(CheckpointError) as caught:
        load_model(write_hf(tiny(), tmp_path / "hf", state))
    for part in ("missing encoder.norm.weight [64]", "extra encoder.layer_norm.Weight [64]",
                 "mask_embed has shape [63] where the model has [64]"):  # fmt: skip
        assert part in str(caught.value)
    with pytest.raises(CheckpointError, match=r"missing encoder\.blocks\.2.*and 8 more"):
        load_model(write_hf(tiny(), tmp_path / "hf", num_hidden_layers=3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_numbers_are_named(tmp_path: Path, value: float) -> None:
    state = hf_state(tiny())
    state["encoder.layers.1.attention.k_proj.bias"][3] = value
    with pytest.raises(CheckpointError, match=r"encoder\.blocks\.1\.attention\.key\.bias holds NaN or Inf"):
        load_model(write_hf(tiny(), tmp_path / "hf", state))


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    state = hf_state(tiny())
    state["masked_spec_embed"] = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(CheckpointError, match="not a floating-point"):
        read_checkpoint(write_hf(tiny(), tmp_path / "hf", state))
    save_file(state, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"masked_spec_embed is torch\.int64"):
        read_checkpoint(tmp_path / "hf")


def test_weights_can_be_copied_into_a_model_at_hand(tmp_path: Path) -> None:
    write_model(tiny(), tmp_path)
    model = Mert(TINY)
    load_state(model, read_checkpoint(tmp_path))
    assert_same(tiny(), model)


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tiny(), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def broken(tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", broken)
    with pytest.raises(OutputError, match=r"model\.safetensors.*No space left"):
        write_model(tiny(ffn_dim=64), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


def test_export_reads_back_and_names_are_published_ones(tmp_path: Path) -> None:
    model = tiny(pre_norm=True, normalize=False, window_s=6.0)
    export_hubert(model, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(hf_state(model))
    loaded, checkpoint, _ = load_model(tmp_path)
    assert loaded.config == model.config and checkpoint.source_format == "huggingface"
    assert_same(model, loaded)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_plain_transformers_loads_the_export_to_identical_outputs(tmp_path: Path, pre_norm: bool) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny(pre_norm=pre_norm)
    export_hubert(model, tmp_path)
    hubert, notes = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True, local_files_only=True)
    assert type(hubert).__name__ == "HubertModel" and not any(notes.values())
    wave = torch.randn(2, 12_345, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        states = model(wave)
        wanted = states_of(hubert.eval()(wave, output_hidden_states=True))
    for got, want in zip(states, wanted, strict=True):
        assert (got - want).abs().max() <= 1e-5 * max(1.0, float(want.square().mean().sqrt()))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.sampling_rate == 24_000 and extractor.do_normalize is True


def test_models_load_without_transformers_and_torchs_compiler(tmp_path: Path) -> None:
    write_hf(tiny(), tmp_path / "hf")
    code = (
        "import sys; sys.modules |= dict.fromkeys(('transformers', 'torch._dynamo'))\n"
        "from mert.weights.checkpoints import load_model\n"
        f"print(load_model({str(tmp_path / 'hf')!r})[2])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "51 of 51 tensors\n"


@pytest.mark.check
def test_the_95m_layout_loads_whole(tmp_path: Path) -> None:
    folder = write_hf(Mert(base_95m()), tmp_path / "hf")
    model, _, report = load_model(folder)
    assert str(report) == "211 of 211 tensors"
    assert sum(p.numel() for p in model.parameters()) == 94_371_712
