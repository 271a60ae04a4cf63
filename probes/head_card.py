"""head.json: what a saved head says, what it reads, and how it was fitted; read as data, and checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mert.errors import CheckpointError, MertError
from mert.files import read_json

SCHEMA = 1
PREPROCESSING = ("window_frames", "hop_frames", "normalize", "dtype", "sample_rate")
AGAIN = "fit it again, or restore the folder"


class HeadError(MertError):
    """A saved head is damaged, or is asked about features that it was not fitted on."""


@dataclass(frozen=True)
class HeadCard:
    """head.json: what the head says (`task`, `classes`), what it reads (`layers` of `encoder`, made as `features`
    says), and how it was fitted and scored. `layer` is one of `layers`, or "all": then they are summed.

    `scores` are means over seeds in points, with the numbers of files they rest on; the head is that of one seed.
    """

    task: str
    classes: list[str]
    layer: str
    layers: list[str]
    encoder: dict[str, Any]
    features: dict[str, Any]
    head: dict[str, Any]
    scores: dict[str, Any]
    tracking: dict[str, Any] | None
    split: dict[str, Any]
    counts: dict[str, Any]
    grid: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    versions: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    schema: int = SCHEMA

    @classmethod
    def load(cls, path: Path) -> HeadCard:
        """Read head.json; HeadError for what is damaged or of another schema."""
        try:
            values = read_json(path)
        except CheckpointError as error:
            raise HeadError(path, error.reason, "give a folder that `mert probe fit` wrote") from None
        if values.get("schema") != SCHEMA:
            raise HeadError(path, f"has schema {values.get('schema')!r}, not {SCHEMA}", AGAIN)
        if odd := sorted(values.keys() ^ {part.name for part in dataclasses.fields(cls)}):
            raise HeadError(path, f"{odd[0]} is missing or unknown", AGAIN)
        card = cls(**values)
        if wrong := card.wrong():
            raise HeadError(path, f"{wrong} is not what it should be", AGAIN)
        return card

    def wrong(self) -> str | None:
        """The first entry a prediction rests on that has not its type; None if all is well."""
        tracking: dict[str, type] = {"post": str, "tolerance_s": float}
        of: dict[str, dict[str, type]] = {
            "encoder": {"name": str, "sha256": str},
            "features": {"normalize": bool, "dtype": str},
            "tracking": tracking if self.task == "frames" else {},
        }
        for name in ("classes", "layers"):
            held = getattr(self, name)
            if not (isinstance(held, list) and held and all(isinstance(value, str) for value in held)):
                return name
        for name, parts in of.items():
            held = getattr(self, name)
            if parts and not isinstance(held, dict):
                return name
            for part, kind in parts.items():
                if not isinstance(held.get(part), kind):
                    return f"{name}.{part}"
        if any(fact not in self.features for fact in (*PREPROCESSING, "window", "hop", "pool")):
            return "features"
        return None if self.task in ("classification", "multilabel", "regression", "frames") else "task"
