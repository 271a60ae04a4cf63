"""Weights by name: bundled, from a folder, or downloaded to the cache of the Hugging Face hub with checked hashes."""

import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import WeakFileLock

from mert.errors import CheckpointError, OutputError
from mert.files import read_json, sha256_file, write_json
from mert.models.mert import Mert
from mert.weights import registry
from mert.weights.checkpoints import load_model
from mert.weights.golden import GOLDEN, verify
from mert.weights.publish import read_card
from mert.weights.registry import ModelInfo

log = logging.getLogger("mert")
_licences_shown: set[str] = set()

_OPTIONAL = ("preprocessor_config.json", "README.md")
_PUBLISHED = ("config.json", "model.safetensors", "README.md", "golden.safetensors")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_REMEDY = "check the connection and HF_HUB_OFFLINE, then load again"


def load_weights(name_or_dir: str | Path, revision: str | None = None) -> tuple[Mert, ModelInfo]:
    """The model of a bundled name, a folder or weights file, or a name on the hub, with its record.

    Its licence is logged the first time, as a warning if it is non-commercial.
    """
    name = str(name_or_dir)
    if folder := registry.bundled(name):
        model, info = _load_bundled(folder, registry.info(name), revision)
    else:
        model, info = (_load_local if Path(name).exists() else _load_hub)(name, revision)
    if info.licence != "unknown" and info.name not in _licences_shown:
        _licences_shown.add(info.name)
        restricted = "nc" in info.licence.lower()
        log.log(logging.WARNING if restricted else logging.INFO, "%s: weights under %s", info.name, info.licence)
    return model, info


def fetch(repo: str, revision: str | None = None, sha256: str | None = None) -> Path:
    """Download a model unless it is in the cache; returns its snapshot folder, named after the commit.

    The weights must have `sha256`. Without one, `trust_file()` records the hash of the first download, which later
    downloads must have. A file with a wrong hash is moved aside. CheckpointError says why a download or check failed.
    """
    revision = revision or constants.DEFAULT_REVISION
    if (config := _download(repo, "config.json", revision)) is None:
        raise CheckpointError(repo, "holds no config.json", "give the name of a MERT repository")
    commit = config.parent.name  # one commit for all files, even if the branch moves meanwhile
    for filename in _OPTIONAL:
        _download(repo, filename, commit)
    weights = next(filter(None, (_download(repo, filename, commit) for filename in _WEIGHTS)), None)
    if weights is None:
        where = "the cache, and the hub is offline" if constants.HF_HUB_OFFLINE else f"{repo} at {revision}"
        raise CheckpointError(repo, f"no {' or '.join(_WEIGHTS)} in {where}", _REMEDY)
    _check(weights, f"{repo}@{revision}/{weights.name}", sha256)
    return config.parent


def folder_of(name_or_dir: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: bundled, a local path as it is, or the checked download with its golden states."""
    name = str(name_or_dir)
    local = registry.bundled(name) or Path(name)
    if local.exists():
        return local
    folder, record = _fetch_named(name, revision)
    _download(record.repo if record else name, GOLDEN, folder.name)
    return folder


def trust_file() -> Path:
    """The JSON file with the hashes of first downloads, in the hub's cache: "repo@revision/filename" -> sha256."""
    return Path(constants.HF_HUB_CACHE) / ".mert-sha256.json"


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Upload a folder that passes `verify`; returns the new revision.

    CheckpointError if it does not pass, or if the hub refuses.
    """
    if missing := [name for name in _PUBLISHED if not (Path(folder) / name).exists()]:
        remedy = f"write a whole model first: mert convert {folder} OUT, then push OUT"
        raise CheckpointError(folder, f"has no {', '.join(missing)}", remedy)
    verify(folder)
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, ignore_patterns=[".*", "*.bin", "*.pt"], commit_message="Publish"
        )
    except Exception as error:  # see _download
        reason = f"upload failed ({_first_line(error)})"
        raise CheckpointError(repo_id, reason, "check the name and connection, and log in: hf auth login") from error
    return str(commit.oid)


def _load_local(name: str, revision: str | None) -> tuple[Mert, ModelInfo]:
    if revision is not None:
        raise CheckpointError(name, "a local model has no revisions", "leave out the revision")
    model, checkpoint, report = load_model(name)
    log.info("%s: %s", name, report)
    folder = checkpoint.weights_file.resolve().parent
    title = Path(name).stem if checkpoint.source_format == "fairseq" else folder.name
    return model, replace(_info(model, folder, title, name), sha256=checkpoint.sha256)


def _load_bundled(folder: Path, record: ModelInfo, revision: str | None) -> tuple[Mert, ModelInfo]:
    if revision is not None:
        raise CheckpointError(record.name, "a bundled model has no revisions", "leave out the revision")
    model, checkpoint, report = load_model(folder)
    log.info("%s: %s", record.name, report)
    if checkpoint.sha256 != record.sha256:
        reason = f"sha256 is {checkpoint.sha256}, on record is {record.sha256}"
        raise CheckpointError(checkpoint.weights_file, reason, "install mert-hub again")
    return model, record


def _load_hub(name: str, revision: str | None) -> tuple[Mert, ModelInfo]:
    folder, record = _fetch_named(name, revision)
    model, checkpoint, report = load_model(folder)
    log.info("%s: %s", folder, report)
    record = record or _info(model, folder, name, name)
    if model.config.sample_rate != record.sample_rate:  # some published configurations lack it
        log.warning("%s: the sample rate is %d Hz, as on record", name, record.sample_rate)
        model.config = replace(model.config, sample_rate=record.sample_rate)
    return model, replace(record, revision=folder.name, sha256=checkpoint.sha256)


def _fetch_named(name: str, revision: str | None) -> tuple[Path, ModelInfo | None]:
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(name, "no such file or folder", "check the path")
    record = _record(name)
    if record is None:
        return fetch(name, revision), None
    pinned = revision in (None, record.revision)
    return fetch(record.repo, revision or record.revision, record.sha256 if pinned else None), record


def _record(name: str) -> ModelInfo | None:
    """The registered model; None for a repository that is not registered."""
    try:
        return registry.info(name)
    except CheckpointError:
        if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
            return None
        raise


def _info(model: Mert, folder: Path, name: str, repo: str) -> ModelInfo:
    card = read_card(folder)
    return ModelInfo.of(model, name, repo, card.get("license") or "unknown", card.get("note", ""))


def _download(repo: str, filename: str, revision: str) -> Path | None:
    """The cached or downloaded file; None if the repository has no such file, or it is not cached when offline."""
    try:
        cached = huggingface_hub.try_to_load_from_cache(repo, filename, revision=revision)
        if cached is huggingface_hub._CACHED_NO_EXIST and re.fullmatch("[0-9a-f]{40}", revision):
            return None
        return Path(huggingface_hub.hf_hub_download(repo, filename, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE and filename != "config.json":
            return None
        reason = "is not in the cache, and the hub is offline or cannot be reached"
        raise CheckpointError(f"{repo}/{filename}", reason, _REMEDY) from error
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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check(weights: Path, key: str, sha256: str | None) -> None:
    """Compare with the hash on record, or record it; a file that differs is moved aside."""
    actual = sha256_file(weights)
    expected = sha256 or _trusted(key, actual)
    if actual == expected:
        return
    blob = weights.resolve()
    quarantine = blob.with_name(blob.name + ".quarantined")
    os.replace(blob, quarantine)
    weights.unlink(missing_ok=True)
    reason = f"sha256 is {actual}, on record is {expected}; the file was moved aside to {quarantine}"
    remedy = f"remove its line from {trust_file()}" if sha256 is None else "update mert-hub"
    again = f"load again to download it anew; if the publisher changed it on purpose, {remedy}"
    raise CheckpointError(key, reason, again)


def _trusted(key: str, actual: str) -> str:
    """The recorded hash of `key`; the first time, `actual` is recorded."""
    path = trust_file()
    try:
        with WeakFileLock(f"{path}.lock"):
            hashes = read_json(path) if path.exists() else {}
            if key not in hashes:
                write_json(path, {**hashes, key: actual})
            return str(hashes.get(key, actual))
    except (OSError, OutputError) as error:  # a shared cache may be read-only
        log.warning("%s: its hash cannot be recorded (%s)", key, error)
        return actual
