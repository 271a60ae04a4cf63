"""Where recordings are listed: folders, JSONL manifests, and datasets of the datasets library."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mert.audio.find import audio_under, listed
from mert.audio.recording import Recording, Source
from mert.errors import AudioError, UsageError, need
from mert.files import lines_of
from mert.train.corpus.base import CorpusError
from mert.weights.hub import is_reachable, without_retry_messages

log = logging.getLogger("mert")
LazySource = Source | Callable[[], Source]  # large data is fetched when it is read


@dataclass(frozen=True)
class Listed:
    """A recording of a list: its name, where its bytes are, and what else the list says of it.

    `state` differs once the bytes do: size and time of a file, the identity of a row.
    """

    name: str
    source: LazySource
    state: tuple[int, int]
    columns: Mapping[str, Any] = field(default_factory=dict)

    def opened(self) -> Recording:
        """The recording, under its name in the list if it has no path."""
        data = self.bytes()
        recording = Recording(data)
        if not is_path(data):
            recording.name = self.name
        return recording

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors of bytes, which have no name, with that in the list."""
        try:
            yield
        except AudioError as error:
            raise error if is_path(self.source) else AudioError(self.name, error.reason, error.remedy) from None

    def bytes(self) -> Source:
        """What a Recording reads: a path, or bytes; AudioError if the file changed since it was listed."""
        if is_path(self.source) and state_of(self.source) != self.state:  # type: ignore[arg-type]
            reason = "changed since the corpus was opened" if os.path.exists(self.source) else "no such file any more"  # type: ignore[arg-type]
            raise AudioError(self.name, reason, "leave recordings alone while they are in use")
        return self.source() if callable(self.source) else self.source


def is_path(source: LazySource) -> bool:
    """Whether a source is the path of a file."""
    return isinstance(source, str | os.PathLike)


def state_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Size and time of a file; zeros if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def list_recordings(data: str, options: Mapping[str, Any]) -> list[Listed]:
    """The recordings of a folder, a JSONL manifest, or `hf:NAME`; UsageError if `data` is none of them."""
    if data.startswith("hf:"):
        return list(_of_dataset(data[3:], options))
    if options:
        raise UsageError(f"data_options={dict(options)}", f"{data} takes none", "leave them out")
    path = Path(data)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_manifest(path)
    raise UsageError(f"data={data}", "no folder, manifest or generator", "give a folder, a .jsonl, hf:NAME or synth")


def _of_folder(folder: Path) -> list[Listed]:
    passed_over: Counter[str] = Counter()
    files = sorted(audio_under(folder, passed_over))
    if passed_over:
        log.info("%s: not taken: %s", folder, listed(passed_over))
    return [Listed(str(file.relative_to(folder)), file, state_of(file)) for file in files]


def _of_manifest(path: Path) -> list[Listed]:
    try:
        lines = lines_of(path)
    except UnicodeDecodeError as error:
        raise UsageError(path, f"is not UTF-8 (byte {error.start})", "save it in UTF-8") from None
    found: dict[str, Listed] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, columns = _row(f"{path}:{number}", line)
        if name in found:
            raise UsageError(f"{path}:{number}", f"{name} stands there twice", "name each recording once")
        found[name] = Listed(name, path.parent / name, state_of(path.parent / name), columns)
    home = os.path.abspath(path.parent)
    if outside := sum(os.path.commonpath([home, os.path.abspath(path.parent / name)]) != home for name in found):
        log.warning("%s: %d of %d recordings lie outside its folder", path, outside, len(found))
    return list(found.values())


def _row(place: str, line: str) -> tuple[str, dict[str, Any]]:
    """The path in a line of a manifest (`audio` or `path`, or `path` within `audio`), and its other columns."""
    try:
        row = dict(json.loads(line))
        audio = row.pop("audio", None) or row.pop("path")
        name = audio["path"] if isinstance(audio, Mapping) else audio
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        name = None
    if not isinstance(name, str) or not name:
        raise UsageError(place, "no JSON object with a path", 'write {"path": "a.wav"}')
    return name, row


def _of_dataset(name: str, options: Mapping[str, Any]) -> Iterator[Listed]:
    """Names begin with the number of the row, because the path in a dataset is often just `audio.wav`."""
    datasets = need("datasets", "train", f"hf:{name}")
    rows = _loaded(datasets, name, options)
    if "audio" not in rows.column_names:
        raise UsageError(f"hf:{name}", f"has no column audio, but {rows.column_names}", "name a dataset of audio")
    rows = rows.cast_column("audio", datasets.Audio(decode=False))
    paths = rows.select_columns(["audio"])
    state = int(hashlib.sha256(str(rows._fingerprint).encode()).hexdigest()[:15], 16)
    others = rows.remove_columns("audio")
    columns = list(others) if others.column_names else [{}] * len(rows)
    for i, path in enumerate(paths.flatten()["audio.path"]):  # without the bytes
        yield Listed(f"{i}:{Path(path or name).name}", partial(_audio_of, paths, i), (i, state), columns[i])


def _loaded(datasets: Any, name: str, options: Mapping[str, Any]) -> Any:
    """One split of a dataset: of the hub, of a folder of parquet or audio files, or of a folder of `save_to_disk`."""
    settings = {"split": "train"} | dict(options)
    folder = Path(name)
    try:
        if (folder / "state.json").is_file():
            return datasets.load_from_disk(name)
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(name)[settings["split"]]
        if folder.is_file() and folder.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=name, **settings)
        with _quick_if_unreachable(datasets):
            return datasets.load_dataset(name, **settings)
    except Exception as error:  # of the hub, of builders and of formats: they have no common type
        reason = f"cannot be loaded with {settings} ({' '.join(str(error).split())[:300]})"
        raise CorpusError(f"hf:{name}", reason, "check the name, the connection and data_options") from error


@contextmanager
def _quick_if_unreachable(datasets: Any) -> Iterator[None]:
    """Take what is in the cache where the hub cannot be reached; else its client tries for half a minute."""
    from huggingface_hub import constants

    places = [(constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(place, name) for place, name in places]
    offline = not is_reachable(constants.ENDPOINT)
    for place, name in places:
        setattr(place, name, offline or getattr(place, name))
    try:
        with without_retry_messages():
            yield
    finally:
        for (place, name), value in zip(places, before, strict=True):
            setattr(place, name, value)


def _audio_of(rows: Any, i: int) -> Source:
    audio: dict[str, Source] = rows[i]["audio"]
    return audio["bytes"] or audio["path"]
