"""Weights by name: bundled, from a folder, or downloaded to the cache of the Hugging Face hub with checked hashes."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import huggingface_hub
import numpy as np
from huggingface_hub import constants, errors
from huggingface_hub.utils import WeakFileLock

from mert.errors import CheckpointError, OutputError
from mert.files import read_json, sha256_file, write_json
from mert.models.interface import NetworkConfig
from mert.weights import registry
from mert.weights.cards import read_card
from mert.weights.centres import CENTRES, read_centres
from mert.weights.conformers import PAIRS
from mert.weights.heads import HEADS, head_files
from mert.weights.licences import UNKNOWN, is_non_commercial
from mert.weights.networks import Network, load_network
from mert.weights.registry import ModelInfo

if TYPE_CHECKING:
    from mert.models.mert import Mert
    from mert.models.onnx import OnnxModel

T = TypeVar("T")
log = logging.getLogger("mert")
_licences_shown: set[str] = set()

_OPTIONAL = ("preprocessor_config.json", "README.md", CENTRES)
_PUBLISHED = ("config.json", "model.safetensors", "README.md", "golden.safetensors")
_NOT_PUBLISHED = [".*", "*/.*", "*.bin", "*.pt"]  # hidden files and folders at any depth, pickles
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_REMEDY = "check the connection and HF_HUB_OFFLINE, then load again"
ANSWER_S = 60.0  # for the few kB of any file but tensors; the client's own limit starts again with every byte


@overload
def load_weights(
    name_or_dir: str | Path, revision: str | None = None, *, with_torch: Literal[True]
) -> tuple[Mert, ModelInfo]: ...
@overload
def load_weights(
    name_or_dir: str | Path, revision: str | None = None, *, with_torch: bool | None = None
) -> tuple[Mert | OnnxModel, ModelInfo]: ...
def load_weights(
    name_or_dir: str | Path, revision: str | None = None, *, with_torch: bool | None = None
) -> tuple[Mert | OnnxModel, ModelInfo]:
    """The model of a bundled name, a folder or weights file, or a name on the hub, with its record.

    By default it is a module of torch where that is installed, and a graph otherwise and from an exported folder. Its
    licence is logged the first time, as a warning if it is non-commercial.
    """
    name = str(name_or_dir)
    if folder := registry.bundled(name):
        network, info = _load_bundled(folder, registry.info(name), revision, with_torch)
    else:
        network, info = (_load_local if registry.local_path(name) else _load_hub)(name, revision, with_torch)
    log.info("%s: %s", name, network.report)
    if info.licence != UNKNOWN and info.name not in _licences_shown:
        _licences_shown.add(info.name)
        level = logging.WARNING if is_non_commercial(info.licence) else logging.INFO
        log.log(level, "%s: weights under %s", info.name, info.licence)
    return network.model, info


def load_centres(name_or_dir: str | Path, info: ModelInfo) -> dict[str, np.ndarray]:
    """The centres that come with weights which `load_weights` has loaded, float64 [D] by layer; mostly none."""
    path = _beside(name_or_dir, info, CENTRES)
    return read_centres(path, info.sha256, info.dim) if path else {}


def heads_folder(name_or_dir: str | Path, info: ModelInfo) -> Path | None:
    """The folder `heads` beside weights that `load_weights` has loaded; None where there is none."""
    return _beside(name_or_dir, info, HEADS)


def _beside(name_or_dir: str | Path, info: ModelInfo, name: str) -> Path | None:
    """The file or folder of a name beside weights, local or in the cache; None where there is none."""
    place = registry.bundled(str(name_or_dir)) or registry.local_path(str(name_or_dir))
    if place is None:
        cached = _cached(info.repo, "config.json", info.revision or constants.DEFAULT_REVISION)
        if not isinstance(cached, str):
            return None
        place = Path(cached)
    path = (place if place.is_dir() else place.parent).absolute() / name
    return path if path.exists() else None


def fetch(repo: str, revision: str | None = None, sha256: str | None = None, file: str | None = None) -> Path:
    """Download a model and its heads unless they are in the cache; returns its snapshot folder, named after the commit.

    With `file`, the weights are that file, beside its statistics and without a configuration, and its path is returned.

    Every file must have the hash that the hub itself gives; a damaged one is moved aside and downloaded once more. The
    weights must have `sha256`. Without one, `trust_file()` records the hash of the first download that loads, which
    later downloads must have. CheckpointError says why a download or check failed.
    """
    revision = revision or constants.DEFAULT_REVISION
    if file:
        return _fetch_pair(repo, revision, sha256, file)
    if (config := _download(repo, "config.json", revision)) is None:
        raise CheckpointError(repo, "holds no config.json", "give the name of one model: `mert models` lists them")
    commit = config.parent.name  # one commit for all files, even if the branch moves meanwhile
    for filename in _OPTIONAL:
        _download(repo, filename, commit)
    weights = next(filter(None, (_download(repo, filename, commit) for filename in _WEIGHTS)), None)
    if weights is None:
        where = "the cache, and the hub is offline" if constants.HF_HUB_OFFLINE else f"{repo} at {revision}"
        raise CheckpointError(repo, f"no {' or '.join(_WEIGHTS)} in {where}", _REMEDY)
    _trust(f"{repo}@{revision}/{weights.name}", config.parent, config, weights, sha256)
    for filename in _listed_heads(repo, commit):
        _download(repo, filename, commit)
    return config.parent


def _fetch_pair(repo: str, revision: str, sha256: str | None, file: str) -> Path:
    """The weights of MusicFM, once they are checked, with the statistics beside them."""
    statistics = _download(repo, f"{PAIRS.fullmatch(file)['name']}_stats.json", revision)  # type: ignore[index]
    weights = _download(repo, file, revision if statistics is None else statistics.parent.name)
    if statistics is None or weights is None:
        raise CheckpointError(repo, f"holds no {file} with its statistics at {revision}", _REMEDY)
    _trust(f"{repo}@{revision}/{file}", weights, statistics, weights, sha256)
    return weights


def _trust(key: str, place: Path, about: Path, weights: Path, sha256: str | None) -> None:
    """Check the hash of a download, or record that of the first one that loads."""
    expected = sha256 or _recorded(trust_file()).get(key)
    if expected is None:
        _load_first(place, about, weights)
    _check(weights, key, expected, sha256 is not None)
    if expected is None:
        _keep(trust_file(), key, sha256_file(weights))


def folder_of(name_or_dir: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: bundled, a local path as it is, or the checked download with its golden states."""
    name = str(name_or_dir)
    if local := registry.bundled(name) or registry.local_path(name):
        return local
    place, record = _fetch_named(name, revision)
    if place.is_dir():
        _download(record.repo if record else name, "golden.safetensors", place.name)
    return place


def trust_file() -> Path:
    """The JSON file with the hashes of first downloads, in the hub's cache: "repo@revision/filename" -> sha256."""
    return Path(constants.HF_HUB_CACHE) / ".mert-sha256.json"


def _listed_heads(repo: str, commit: str) -> list[str]:
    """The files of a model's heads at a commit, asked for once and kept; none where the hub does not list its files."""
    record, key = Path(constants.HF_HUB_CACHE) / ".mert-heads.json", f"{repo}@{commit}"
    if (kept := _recorded(record).get(key)) is not None:
        return head_files(kept)
    if not is_reachable(constants.ENDPOINT):
        return []
    try:
        with without_retry_messages():
            siblings = _in_time(lambda: huggingface_hub.HfApi().model_info(repo, revision=commit)).siblings or []
    except Exception as error:  # see _from_hub
        log.warning("%s: comes without heads, as its files cannot be listed (%s)", repo, _first_line(error))
        return []
    names = head_files(file.rfilename for file in siblings)
    _keep(record, key, names)
    return names


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Upload a folder that passes `verify`, its heads among the rest; returns the new revision.

    CheckpointError if it does not pass, or if the hub refuses.
    """
    if missing := [name for name in _PUBLISHED if not (Path(folder) / name).exists()]:
        if not Path(folder).is_dir():
            raise CheckpointError(folder, "no such folder", "give a folder that mert convert or export wrote")
        remedy = f"write a whole model first: mert convert {folder} OUT, then push OUT"
        raise CheckpointError(folder, f"has no {', '.join(missing)}", remedy)
    from mert.weights.golden import verify

    verify(folder)
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, ignore_patterns=_NOT_PUBLISHED, commit_message="Publish"
        )
    except Exception as error:  # see _download
        reason = f"upload failed ({_first_line(error)})"
        raise CheckpointError(repo_id, reason, "check the name and connection, and log in: hf auth login") from error
    return str(commit.oid)


def _load_local(name: str, revision: str | None, with_torch: bool | None) -> tuple[Network, ModelInfo]:
    if revision is not None:
        raise CheckpointError(name, "a local model has no revisions", "leave out the revision")
    network = load_network(name, with_torch)
    if network.record:
        return network, network.record
    folder = network.weights_file.resolve().parent
    title = Path(name).stem if network.source_format == "fairseq" else folder.name
    record = replace(_info(network.model.config, folder, title, name), sha256=network.sha256)
    if record.licence == UNKNOWN and (known := registry.with_weights(network.sha256)):
        record = replace(record, licence=known.licence)  # a copy of published weights, without their card
    return network, record


def _load_bundled(
    folder: Path, record: ModelInfo, revision: str | None, with_torch: bool | None
) -> tuple[Network, ModelInfo]:
    if revision is not None:
        raise CheckpointError(record.name, "a bundled model has no revisions", "leave out the revision")
    network = load_network(folder, with_torch)
    if network.sha256 != record.sha256:
        reason = f"sha256 is {network.sha256}, on record is {record.sha256}"
        raise CheckpointError(network.weights_file, reason, "install mert-hub again")
    return network, record


def _load_hub(name: str, revision: str | None, with_torch: bool | None) -> tuple[Network, ModelInfo]:
    place, record = _fetch_named(name, revision)
    folder = place if place.is_dir() else place.parent
    network = load_network(place, with_torch)
    record = record or _info(network.model.config, folder, name, name)
    if network.model.config.sample_rate != record.sample_rate:  # some published configurations lack it
        log.warning("%s: the sample rate is %d Hz, as on record", name, record.sample_rate)
        network = network.at_rate(record.sample_rate)
    return network, replace(record, revision=folder.name, sha256=network.sha256)


def _fetch_named(name: str, revision: str | None) -> tuple[Path, ModelInfo | None]:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(name, "no such file or folder", "check the path")
    record = _record(name)
    if record is None:
        return fetch(name, revision), None
    pinned = revision in (None, record.revision)
    sha256 = record.sha256 if pinned else None
    return fetch(record.repo, revision or record.revision, sha256, record.file), record


def _load_first(place: Path, about: Path, weights: Path) -> None:
    """CheckpointError if a first download does not load; what the hub gives no hash of is then moved aside."""
    try:
        load_network(place)
    except CheckpointError as error:
        moved = [str(_move_aside(file)) for file in (about, weights) if _said_by_hub(file) is None]
        if not moved:
            raise
        reason = f"{error.reason}; the download was moved aside to {' and '.join(moved)}"
        raise CheckpointError(error.source, reason, "load again to download it anew") from error


def _record(name: str) -> ModelInfo | None:
    """The registered model; None for a repository that is not registered."""
    try:
        return registry.info(name)
    except CheckpointError:
        if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
            return None
        raise


def _info(config: NetworkConfig, folder: Path, name: str, repo: str) -> ModelInfo:
    card = read_card(folder)
    licence, note, layer = card.get("license") or UNKNOWN, card.get("note", ""), card.get("recommended_layer")
    if layer not in (None, *config.layer_names):
        reason, remedy = f"recommended_layer {layer!r} is no layer", f"name one of {', '.join(config.layer_names)}"
        raise CheckpointError(folder / "README.md", reason, remedy)
    return ModelInfo.of_config(config, name=name, repo=repo, licence=licence, note=note, recommended_layer=layer)


def _download(repo: str, filename: str, revision: str) -> Path | None:
    """The cached or downloaded file, as the hub describes it; None if there is none, or none in the cache when offline.

    A damaged file is moved aside and downloaded once more. Weights in the cache are compared by `_check`.
    """
    moved = None
    for _ in range(2):
        cached, is_fixed = _cached(repo, filename, revision), bool(re.fullmatch("[0-9a-f]{40}", revision))
        if cached is huggingface_hub._CACHED_NO_EXIST and is_fixed:
            return None
        if isinstance(cached, str) and is_fixed:  # no branch that may have moved: nothing to ask the hub for
            file: Path | None = Path(cached)
        else:
            file = _from_hub(repo, filename, revision)
        if file is not None and not file.is_file():
            raise CheckpointError(f"{repo}/{filename}", "the hub gives it no name (an empty ETag)", _REMEDY)
        if file is None or (isinstance(cached, str) and (filename in _WEIGHTS or PAIRS.fullmatch(filename))):
            return file
        if (said := _said_by_hub(file)) is None or said == _hash_like(said, file):
            return file
        moved = _move_aside(file)
    reason = f"came damaged twice: not the bytes that the hub announces; moved aside to {moved}"
    raise CheckpointError(f"{repo}/{filename}", reason, _REMEDY)


def _cached(repo: str, filename: str, revision: str) -> object:
    try:
        return huggingface_hub.try_to_load_from_cache(repo, filename, revision=revision)
    except Exception:  # a name that no repository can have; the download says why
        return None


def _from_hub(repo: str, filename: str, revision: str) -> Path | None:
    """What the client of the hub downloads, or has in its cache."""
    try:
        with without_retry_messages():
            local = not is_reachable(constants.ENDPOINT)
            download = partial(
                huggingface_hub.hf_hub_download, repo, filename, revision=revision, local_files_only=local
            )
            is_small = Path(filename).suffix in (".json", ".md")
            return Path(_in_time(download) if is_small else download())
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE and filename != "config.json":
            return None
        said = f" ({_first_line(error.__cause__)})" if isinstance(error.__cause__, errors.HfHubHTTPError) else ""
        reason = f"is not in the cache, and the hub is offline or cannot be reached{said}"
        raise CheckpointError(f"{repo}/{filename}", reason, _REMEDY) from None
    except errors.GatedRepoError as error:
        reason = "is gated: whoever wants its files must be let in"
        page = f"{constants.ENDPOINT}/{repo}"
        raise CheckpointError(repo, reason, f"ask for access on {page}, then log in: hf auth login") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(repo, f"has no revision {revision}", "check the revision") from error
    except errors.RepositoryNotFoundError as error:
        reason = "no such repository, or it is private"
        raise CheckpointError(repo, reason, "check the name, or log in: hf auth login") from error
    except errors.EntryNotFoundError:
        return None
    except Exception as error:  # two generations of the client, on two HTTP libraries, share no base class
        reason = f"download failed ({_first_line(error)})"
        raise CheckpointError(f"{repo}/{filename}", reason, _REMEDY) from error


def _in_time(answer: Callable[[], T]) -> T:
    """What a call to the hub returns; TimeoutError once it has taken `ANSWER_S`."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(answer())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return future.result(ANSWER_S)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"no whole answer in {ANSWER_S:.0f} s") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_reachable(endpoint: str) -> bool:
    """Whether the hub, or the proxy before it, accepts connections: else its client tries for half a minute."""
    address = urlsplit(endpoint)
    if constants.HF_HUB_OFFLINE:
        return False
    if (proxy := getproxies().get(address.scheme)) and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = address.port or {"http": 80}.get(address.scheme, 443)
        socket.create_connection((address.hostname or "", port), timeout=10).close()
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def without_retry_messages() -> Iterator[None]:
    """The client of the hub logs each attempt with the text of its exceptions; the last one becomes our error."""
    logger = logging.getLogger("huggingface_hub.utils._http")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _said_by_hub(file: Path) -> str | None:
    """The hash by which the hub names a file in its cache: SHA-256 (large files) or git's SHA-1; None for another."""
    name = file.resolve().name
    return name if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name) else None


def _hash_like(said: str, file: Path) -> str:
    if len(said) == 64:
        return sha256_file(file)
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check(weights: Path, key: str, expected: str | None, registered: bool) -> None:
    """CheckpointError unless the weights have the hash on record, or that of the hub; they are then moved aside."""
    said = _said_by_hub(weights)
    expected = expected or (said if said and len(said) == 64 else None)
    if expected is None or expected == (actual := sha256_file(weights)):
        return
    reason = f"sha256 is {actual}, on record is {expected}; the file was moved aside to {_move_aside(weights)}"
    remedy = "update mert-hub" if registered else f"remove its line from {trust_file()}"
    again = f"load again to download it anew; if the publisher changed it on purpose, {remedy}"
    raise CheckpointError(key, reason, again)


def _move_aside(file: Path) -> Path:
    blob = file.resolve()
    quarantine = blob.with_name(blob.name + ".quarantined")
    os.replace(blob, quarantine)
    file.unlink(missing_ok=True)
    return quarantine


def _recorded(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _keep(path: Path, key: str, fact: str | list[str]) -> None:
    """Record a fact about a first download, unless another process did."""
    try:
        with WeakFileLock(f"{path}.lock"):
            write_json(path, {key: fact} | _recorded(path))
    except (OSError, OutputError) as error:  # a shared cache may be read-only
        log.warning("%s: cannot be recorded in %s (%s)", key, path, error)
