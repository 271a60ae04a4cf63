"""A description of a recording: names with their confidence, times, loudness and length; as values, text and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from mert.describe.predictions import Prediction

BEATS, DOWNBEATS = "beats", "downbeats"  # the names of the heads from which tempo and bars follow
LEAST_BEATS, SPAN = 4, 8  # that give a tempo; that it is measured over
SHOWN = 5  # tags in text, the most probable ones
SCHEMA = 2  # of what a description means; 2: loudness of all channels, no answers for silence
MADE_BY = "made_by"  # of a file: what it must agree in to be up to date
RESERVED = (
    "file", "model", "seconds", "silent", "loudness_lufs", "tempo_bpm", "start_s", "end_s", "sections", "warnings",
    MADE_BY,
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A part of a recording, in seconds, and what the heads predict from its frames alone, by the name of the head."""

    start_s: float
    end_s: float
    predictions: Mapping[str, Prediction]

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        named = {name: plain_value(prediction) for name, prediction in self.predictions.items()}
        return {"start_s": round(self.start_s, 3), "end_s": round(self.end_s, 3), **named}


@dataclass(frozen=True)
class Description:
    """The description of one recording; `Describer.describe` gives one.

    `loudness_lufs` is that of all channels (ITU-R BS.1770), None for silence and for less than 0.4 s. `predictions` are
    those of the heads, by their names, and `sections` the same for parts of the recording, if they were asked for. A
    head that is not sure of a class or of events says None in `as_dict`.
    """

    file: str
    model: str
    seconds: float
    silent: bool
    loudness_lufs: float | None
    predictions: Mapping[str, Prediction]
    sections: tuple[Section, ...] = ()
    warnings: tuple[str, ...] = ()

    def times(self, name: str) -> tuple[float, ...] | None:
        """The events of a head in seconds, such as `beats`; None without such a head, or if it is not sure."""
        prediction = self.predictions.get(name)
        return prediction.times if prediction and prediction.sure else None

    @property
    def tempo_bpm(self) -> float | None:
        """Beats a minute; None without at least four beats.

        It is the median over eight beats at a time, or over as many as there are: single ones lie on a grid of frames.
        """
        beats = self.times(BEATS) or ()
        if len(beats) < LEAST_BEATS:
            return None
        span = min(SPAN, len(beats) - 1)
        return round(60 * span / median(beats[i + span] - beats[i] for i in range(len(beats) - span)), 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        loudness = None if self.loudness_lufs is None else round(self.loudness_lufs, 1)
        about = {"file": self.file, "model": self.model, "seconds": round(self.seconds, 3), "silent": self.silent}
        about |= {"loudness_lufs": loudness}
        named = {name: plain_value(prediction) for name, prediction in self.predictions.items()}
        tempo = {"tempo_bpm": self.tempo_bpm} if BEATS in self.predictions else {}
        sections = {"sections": [section.as_dict() for section in self.sections]} if self.sections else {}
        return about | tempo | named | sections | {"warnings": list(self.warnings)}

    def __str__(self) -> str:
        return "\n".join([self.file, *(f"  {name:<17} {text}" for name, text in facts(self.as_dict()))])


def plain_value(prediction: Prediction) -> Any:
    """A class with its confidence, tags or values with theirs, or times; None for events that are not sure."""
    if prediction.times is not None:
        return [round(time, 3) for time in prediction.times] if prediction.sure else None
    scores = prediction.scores or {}
    if prediction.task == "classification":
        best = prediction.labels[0]
        return {"value": best if prediction.sure else None, "confidence": round(scores[best], 4)}
    if prediction.task == "multilabel":
        return {name: round(scores[name], 4) for name in most_probable(prediction)}
    return {"values": {name: round(value, 6) for name, value in scores.items()}}


def most_probable(prediction: Prediction) -> list[str]:
    """The tags of a prediction, the most probable one first."""
    scores = prediction.scores or {}
    return sorted(prediction.labels, key=lambda name: -scores[name])


def facts(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a description of `as_dict` says, for people: a name and a text for each head, and each section.

    >>> facts({"seconds": 9.5, "silent": False, "loudness_lufs": -14.0, "key": {"value": None, "confidence": 0.2}})
    [('length', '9.5 s, -14.0 LUFS'), ('key', 'not sure')]
    """
    level = described["loudness_lufs"]
    loudness = "silent" if described["silent"] else "" if level is None else f"{level:.1f} LUFS"
    parts = [("length", ", ".join(filter(None, (f"{described['seconds']:.1f} s", loudness))))]
    if "tempo_bpm" in described:
        tempo = described["tempo_bpm"]
        parts.append(("tempo", "not sure" if tempo is None else f"{tempo:.0f} BPM"))
    parts += [(name, in_words(value)) for name, value in described.items() if name not in RESERVED]
    for section in described.get("sections", ()):
        named = "; ".join(f"{name}: {in_words(value)}" for name, value in section.items() if name not in RESERVED)
        parts.append((f"{section['start_s']:.0f} to {section['end_s']:.0f} s", named))
    return parts + [("warning", text) for text in described.get("warnings", ())]


def in_words(value: Any) -> str:
    """What a head predicts, in words.

    >>> in_words({"value": "C major", "confidence": 0.8}), in_words({"violin": 0.7, "piano": 0.6}), in_words([0.5, 1.0])
    ('C major (0.80)', 'violin (0.70), piano (0.60)', '2, the first at 0.50 s')
    """
    if value is None:
        return "not sure"
    if isinstance(value, list):
        return f"{len(value)}, the first at {value[0]:.2f} s" if value else "none"
    if value.keys() == {"values"}:
        return ", ".join(f"{name} {number:.3g}" for name, number in value["values"].items())
    if value.keys() == {"value", "confidence"}:
        return f"{value['value']} ({value['confidence']:.2f})" if value["value"] else "not sure"
    return (
        ", ".join(f"{name} ({score:.2f})" for name, score in list(value.items())[:SHOWN]) or "none is probable enough"
    )


def columns(described: Mapping[str, Any]) -> dict[str, str]:
    """A description of `as_dict` as the cells of one row of a table, without times and sections.

    >>> columns({"file": "a.wav", "key": {"value": "C major", "confidence": 0.8}, "tags": {"rock": 0.6, "pop": 0.5}})
    {'file': 'a.wav', 'key': 'C major', 'key_confidence': '0.8', 'tags': 'rock;pop'}
    """
    row: dict[str, str] = {}
    for name, value in described.items():
        if name == "warnings":
            row[name] = ";".join(value)
        elif name in RESERVED:
            row |= {} if name == "sections" else {name: "" if value is None else str(value)}
        elif isinstance(value, dict) and value.keys() == {"value", "confidence"}:
            row |= {name: value["value"] or "", f"{name}_confidence": str(value["confidence"])}
        elif isinstance(value, dict) and value.keys() == {"values"}:
            row |= {f"{name}_{each}": f"{number:.6g}" for each, number in value["values"].items()}
        elif isinstance(value, dict):
            row[name] = ";".join(value)
    return row
