"""A network from a folder or weights file: the module of torch, or a graph of onnxruntime; this page needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mert.errors import AGAIN, CheckpointError, need
from mert.files import read_json, sha256_file, stamp
from mert.models.config import MertConfig
from mert.models.interface import NetworkConfig
from mert.models.onnx import OnnxModel
from mert.weights import formats
from mert.weights.arrays import ORIGINAL, read_arrays
from mert.weights.centres import CENTRES
from mert.weights.conformers import Layout, config_of
from mert.weights.graphs.write import data_file, write_graph
from mert.weights.heads import remove_heads_of_others
from mert.weights.registry import ModelInfo

FORMAT, VERSION = "mert-onnx", 1
GRAPH, INT8 = "model.onnx", "model.int8.onnx"
DATA = data_file(Path(GRAPH)).name
FILES = (  # that a folder may hold for a model, beside its card and heads
    "config.json", "model.safetensors", "golden.safetensors", "preprocessor_config.json", CENTRES, GRAPH, INT8, DATA
)  # fmt: skip
ASKED_FOR = "a model without torch"


@dataclass(frozen=True)
class Network:
    """A model that was loaded, its weights file with hash and format, a report, and the record beside a graph."""

    model: Any  # a module of torch, or an OnnxModel
    weights_file: Path
    sha256: str
    source_format: str
    report: str
    record: ModelInfo | None = None

    def at_rate(self, rate_hz: int) -> Network:
        """The network as one for another sample rate, which a published configuration lacked."""
        config = replace(self.model.config, sample_rate=rate_hz)
        if isinstance(self.model, OnnxModel):
            return replace(self, model=replace(self.model, config=config))
        self.model.config = config
        return self


@contextmanager
def replacing(folder: Path) -> Iterator[None]:
    """Write a model into a folder; what is not written anew of the one that it held is removed at the end.

    Heads stay if they were fitted on the weights that are there then; a warning names each of the others.
    """
    before = {path: stamp(path) for name in FILES if (path := folder / name).is_file()}
    yield
    for path, was in before.items():
        if stamp(path) == was:
            path.unlink()
    if before:
        config = read_json(folder / "config.json")
        weights = folder / "model.safetensors"
        remove_heads_of_others(folder, sha256_file(weights) if weights.is_file() else config["record"]["sha256"])


def has_torch() -> bool:
    """Whether torch is installed."""
    return find_spec("torch") is not None


def load_network(path: str | Path, with_torch: bool | None = None) -> Network:
    """The network of a folder or weights file: a graph from an exported folder, otherwise by torch if installed.

    `with_torch=False` makes a graph even where torch is installed; `True` asks for a module of torch. CheckpointError
    for whatever cannot be read.
    """
    path = Path(path)
    if is_exported(path):
        if with_torch:
            raise CheckpointError(path, "holds a graph to run, which cannot be trained", ORIGINAL)
        return open_exported(path)
    if has_torch() if with_torch is None else with_torch:
        from mert.weights.checkpoints import load_model

        model, checkpoint, report = load_model(path)
        return Network(model, checkpoint.weights_file, checkpoint.sha256, checkpoint.source_format, report)
    return Network(*_graph_of(path))


def _graph_of(path: Path) -> tuple[OnnxModel, Path, str, str, str]:
    need("onnx", "onnx", ASKED_FOR)  # ahead of the weights: it brings numpy's bfloat16
    arrays = read_arrays(path)
    graph = write_graph(arrays.config, arrays.state, {}, ASKED_FOR).in_memory()
    size = len(graph.content) + sum(array.nbytes for array in graph.beside.values())
    report = f"{len(arrays.state)} tensors as a graph of {size / 2**20:.0f} MiB"
    return OnnxModel(arrays.config, graph, path), arrays.weights_file, arrays.sha256, arrays.source_format, report


def is_exported(path: Path) -> bool:
    """Whether a folder was written by `export_folder`."""
    if not (path / GRAPH).is_file() or not (path / "config.json").is_file():
        return False
    return read_json(path / "config.json").get("format") == FORMAT


def description(config: NetworkConfig, record: ModelInfo, files: dict[str, str]) -> dict[str, Any]:
    """config.json of an exported folder: configuration, clock, layers, record, and the SHA-256 of each file.

    A reader without this package needs no more: frame t of a window counts once samples [stride t, stride t + field)
    are there. It belongs to the middle of them, or to sample stride t + `centre` where the configuration has that.
    """
    clock = {"rate_hz": config.sample_rate, "stride": config.stride, "field": config.receptive_field}
    return {
        "format": FORMAT, "format_version": VERSION, "model": config.to_dict(), "clock": clock,
        "layers": list(config.layer_names), "record": asdict(record), "files": files,
    }  # fmt: skip


def open_exported(folder: Path) -> Network:
    """The graph of an exported folder, its files checked against their hashes; CheckpointError if they differ."""
    file = folder / "config.json"
    values = read_json(file)
    parts = {key: values.get(key) for key in ("model", "record", "files")}
    if values.get("format_version") != VERSION or not all(isinstance(part, dict) for part in parts.values()):
        raise CheckpointError(
            file, f"is not {FORMAT} of version {VERSION}", "update mert-hub, or export the model again"
        )
    config = _config(parts["model"], file)  # type: ignore[arg-type]
    files: dict[str, str] = parts["files"]  # type: ignore[assignment]
    for name in (GRAPH, INT8, DATA):
        if name == DATA and name in files and not (folder / name).is_file():
            raise CheckpointError(folder / name, "is missing", "copy or export the folder again")
        if (folder / name).is_file() and (actual := sha256_file(folder / name)) != files.get(name):
            reason = f"sha256 is {actual}, config.json has {files.get(name)}"
            raise CheckpointError(folder / name, reason, "copy or export the folder again")
    record = _record(parts["record"], config, file)  # type: ignore[arg-type]
    int8 = folder / INT8 if (folder / INT8).is_file() else None
    model = OnnxModel(config, folder / GRAPH, folder, int8)
    return Network(model, folder / GRAPH, record.sha256 or "", FORMAT, f"a graph of {record.name}", record)


def _config(values: dict[str, Any], file: Path) -> NetworkConfig:
    """The configuration of a model in an exported folder, as in a folder of our format: a MERT's names no family."""
    ours = {"format_version": 1} | values
    if "family" in values:
        return config_of(Layout("mert-hub", file, ours, file), {})
    return formats.from_mert_hub(ours, str(file))


def _record(values: dict[str, Any], config: NetworkConfig, file: Path) -> ModelInfo:
    """The record, with the facts that follow from the configuration taken from there."""
    names = {each.name for each in fields(ModelInfo)} - set(vars(MertConfig())) - {"n_params", "frame_rate"}
    recorded = {name: values.get(name) for name in sorted(names)} | {"family": values.get("family", "mert")}
    wrong = [name for name, value in recorded.items() if not isinstance(value, str | None)]
    wrong += [name for name in ("name", "repo", "licence", "sha256", "note", "family") if recorded[name] is None]
    if recorded["recommended_layer"] not in (None, *config.layer_names):
        wrong.append("recommended_layer")
    if wrong:
        raise CheckpointError(file, f"its record has no usable {', '.join(wrong)}", AGAIN)
    return ModelInfo.of_config(config, **recorded)
