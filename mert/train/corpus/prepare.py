"""`mert prepare`: a corpus decoded, mixed and resampled once, shard by shard; a stopped job can be run again."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mert.audio.clips import n_samples_at, signal
from mert.collection.shards import run_numbered
from mert.errors import CheckpointError, MertError, UsageError
from mert.files import only_process, read_json, sha256_file, write_json, write_whole
from mert.train.corpus.base import CorpusError, to_16_bits
from mert.train.corpus.recordings import Track, scanned
from mert.train.corpus.sources import Listed, is_path, list_recordings
from mert.train.corpus.store import DESCRIPTION, LOCK, OWN_COLUMNS, ShardWriter, shard_name, write_table

SHARD_BYTES = 2**29  # 3 h at 24 kHz
REPORT = "report.jsonl"


@dataclass(frozen=True)
class PrepareOptions:
    """The options of a job: plain values that travel between processes."""

    data: str
    out: str
    rate_hz: int
    data_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a job will do: its shards of recordings, those that are left out (name and reason), and samples in all."""

    shards: list[list[Listed]]
    left_out: list[dict[str, Any]]
    n_samples: int

    @property
    def n_bytes(self) -> int:
        """Size of the store, about."""
        return 2 * self.n_samples


def planned(options: PrepareOptions, track: Track = lambda listed: listed) -> Plan:
    """The plan of a job; it reads headers, and the bytes of files of equal size, and decodes nothing."""
    recordings = list_recordings(options.data, options.data_options)
    found = scanned(recordings, Path(options.out), track)
    originals = duplicates(recordings)
    shards: list[list[Listed]] = [[]]
    left_out: list[dict[str, Any]] = []
    total, room = 0, SHARD_BYTES
    for listed in recordings:
        layout = found[listed.name]
        if isinstance(layout, str):
            left_out.append({"name": listed.name, "status": "failed", "error": layout})
        elif listed.name in originals:
            left_out.append({"name": listed.name, "status": "duplicate", "of": originals[listed.name]})
        else:
            size = 2 * n_samples_at(layout, options.rate_hz)
            if shards[-1] and size > room:
                shards.append([])
                room = SHARD_BYTES
            shards[-1].append(listed)
            room -= size
            total += size // 2
    if not shards[0]:
        raise CorpusError(f"{len(recordings)} recordings", "none can be used", "see the warnings, or give other data")
    return Plan(shards, left_out, total)


def duplicates(recordings: list[Listed]) -> dict[str, str]:
    """Names of files whose bytes are those of an earlier one, which the value names."""
    by_size: dict[int, list[Listed]] = defaultdict(list)
    for listed in recordings:
        if is_path(listed.source):
            by_size[listed.state[0]].append(listed)
    originals: dict[str, str] = {}
    for alike in by_size.values():
        first: dict[str, str] = {}
        for listed in alike if len(alike) > 1 else ():
            try:
                name = first.setdefault(sha256_file(listed.source), listed.name)  # type: ignore[arg-type]
            except OSError:  # its error comes when it is decoded
                continue
            if name != listed.name:
                originals[listed.name] = name
    return originals


class PrepareStage:
    """Writes one shard per call: `stage(number)` returns a row for each of its recordings.

    `audio-00000.json` beside a shard keeps the rows and what the shard was made of: it is not written again unless a
    file, a rate or a row of the manifest changes.
    """

    def __init__(self, options: PrepareOptions, plan: Plan) -> None:
        self.options, self.out, self.plan = options, Path(options.out), plan

    def __call__(self, number: int) -> list[dict[str, Any]]:
        path = self.out / shard_name(number)
        notes = path.with_suffix(".json")
        members = _identity(self.plan.shards[number], self.options.rate_hz)
        try:
            done = read_json(notes)
            if done["members"] == members and path.stat().st_size == done["size"]:
                return list(done["rows"])
        except (CheckpointError, OSError, KeyError):
            pass
        with write_whole(path) as temporary:
            with ShardWriter(temporary, self.options.rate_hz, members) as writer:
                rows = [self._row(listed, writer, number) for listed in self.plan.shards[number]]
            size = temporary.stat().st_size
        write_json(notes, {"members": members, "size": size, "rows": rows})
        return rows

    def _row(self, listed: Listed, writer: ShardWriter, number: int) -> dict[str, Any]:
        recording, clipped = listed.opened(), 0
        try:
            listed.name.encode()
            for wave_N in signal(recording, self.options.rate_hz):
                clipped += int((np.abs(wave_N) > 1).sum())
                writer.add(to_16_bits(wave_N))
            sha256 = _sha256(listed)
            listed.bytes()  # it must not have changed meanwhile
        except (MertError, UnicodeEncodeError) as error:
            writer.drop()
            reason = "its name is not Unicode; rename it" if isinstance(error, UnicodeError) else str(error)
            return {"name": os.fsencode(listed.name).decode(errors="replace"), "status": "failed", "error": reason}
        first, n_samples = writer.end(listed.name)
        place = {"n_samples": n_samples, "shard": number, "first_block": first, "sha256": sha256}
        status = "damaged" if recording.damaged else "ok"
        columns = {key: value for key, value in listed.columns.items() if key not in OWN_COLUMNS}
        about = {"status": status, "warnings": recording.warnings, "clipped": clipped, "columns": columns}
        return {"name": listed.name, **place, **about}


def _identity(recordings: list[Listed], rate_hz: int) -> str:
    facts = [rate_hz, [[listed.name, *listed.state, listed.columns] for listed in recordings]]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def _source(data: str) -> str:
    """A digest of where data comes from, a name or the whole path of a folder: a store may not tell the path itself."""
    place = str(Path(data).resolve()) if Path(data).exists() else data
    return hashlib.sha256(os.fsencode(place)).hexdigest()


def _sha256(listed: Listed) -> str:
    data = listed.bytes()
    return sha256_file(data) if is_path(data) else hashlib.sha256(data).hexdigest()  # type: ignore[arg-type]


@contextmanager
def preparing(options: PrepareOptions) -> Iterator[None]:
    """The time of a job: UsageError if another one writes the same store, or the folder holds something else.

    A store of other data is something else, too: runs may depend on it.
    """
    out = Path(options.out)
    held = read_json(out / DESCRIPTION).get("source") if (out / DESCRIPTION).exists() else None
    if held not in (None, _source(options.data)):
        reason = f"is a store of other data than {options.data}"
        raise UsageError(out, reason, "give another folder, or remove this one first")
    if out.is_dir() and not (out / LOCK).exists() and any(out.iterdir()):
        raise UsageError(out, "is a folder that holds other files", "give a new or empty one")
    with only_process(out, LOCK, "another mert prepare writes it"):
        yield


def prepare(
    options: PrepareOptions, plan: Plan, executor: str = "local", workers: int = 1,
    on_shard: Callable[[int], None] = lambda number: None,
) -> dict[str, Any]:  # fmt: skip
    """Write the store of a plan; returns its description. `on_shard` is called after each shard, in order.

    CorpusError if nothing could be decoded; OutputError if the disk refuses: the same call then goes on.
    """
    out, stage = Path(options.out), PrepareStage(options, plan)
    rows: list[dict[str, Any]] = []
    (out / DESCRIPTION).unlink(missing_ok=True)
    for number, part in enumerate(run_numbered(stage, len(plan.shards), executor, workers)):
        rows += part
        on_shard(number)
    report, good = list(plan.left_out), []
    seen: dict[str, str] = {}
    for row in rows:
        columns = row.pop("columns", {})
        status, original = str(row["status"]), seen.setdefault(row.get("sha256", row["name"]), row["name"])
        if status != "failed" and original != row["name"]:
            report.append({"name": row["name"], "status": "duplicate", "of": original})
            continue
        if status != "ok" or row["warnings"] or row["clipped"]:
            report.append({key: value for key, value in row.items() if key not in OWN_COLUMNS or key == "name"})
        if status != "failed":
            good.append({key: row[key] for key in OWN_COLUMNS} | columns)
    with write_whole(out / REPORT) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in report), encoding="utf-8")
    if not good:
        raise CorpusError(options.data, f"none of {len(rows)} recordings could be decoded", f"see {out / REPORT}")
    wanted = {out / shard_name(number) for number in range(len(plan.shards))}
    for stale in set(out.glob("audio-*.arrow")) - wanted:  # of a plan of more shards
        stale.unlink()
        stale.with_suffix(".json").unlink(missing_ok=True)
    n_samples = sum(row["n_samples"] for row in good)
    hours = round(n_samples / options.rate_hz / 3600, 3)
    about = {"rate_hz": options.rate_hz, "recordings": len(good), "hours": hours, "source": _source(options.data)}
    write_table(out, good, about)
    return about | {"report": report}
