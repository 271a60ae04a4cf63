"""The 14 tasks: folder and reader of each, and how it is windowed, fitted and scored.

A new task is an entry here and a reader.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from mir_benchmarks.datasets import jsonl
from mir_benchmarks.datasets.dataset import SPLITS, Dataset, TaskError, synthetic_facts
from probes.features.cutting import ClipWindows
from probes.features.scaling import SCALINGS

FEATURES = ("auto", *SCALINGS)  # how features are scaled; auto is chosen on validation
Switches = Mapping[str, str]  # protocol switches by name
Counts = tuple[int, int, int]  # items of train, valid and test
Value = tuple[str, str]  # of a switch: its name and its value
PITCHES = ("C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")


@dataclass(frozen=True)
class TaskSpec:
    """One task. `kind` is classification, key, multilabel, regression, beats or separation.

    `reader` is "module:function" below mir_benchmarks.datasets: called with the corpus folder and the protocol
    switches, it returns a Dataset. `counts` are official; (0, 0, 0) where none are published, and then the recordings
    must have `n_artists` artists. `patience` is (epochs until the rate is halved, epochs until the end).
    `counts_by_switch` and `windows_by_switch` hold what takes their place under a value of a switch. All tasks have the
    switch `features`.
    """

    name: str
    title: str
    corpus: str
    reader: str
    kind: str
    counts: Counts
    windows: ClipWindows
    monitor: str
    metrics: tuple[str, ...]
    max_epochs: int = 100
    patience: tuple[int, int] = (5, 20)
    switches: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the first value is the default
    counts_by_switch: dict[Value, Counts] = field(default_factory=dict)
    windows_by_switch: dict[Value, ClipWindows] = field(default_factory=dict)
    n_artists: int = 0
    per_window: bool = False  # every window is scored as an item of its own, as in MARBLE's VocalSet
    version: str = "1"
    get: str = ""  # what to download, and where from

    def __post_init__(self) -> None:
        object.__setattr__(self, "switches", self.switches | {"features": FEATURES})

    def protocol(self, chosen: Switches | None = None) -> dict[str, str]:
        """All switches of the task with their values; TaskError for values it does not have."""
        values = {name: (chosen or {}).get(name, options[0]) for name, options in self.switches.items()}
        for name, value in values.items():
            if value not in self.switches[name]:
                raise TaskError(self.name, f"no {name}={value}", f"give one of {', '.join(self.switches[name])}")
        return values

    def class_name(self, name: str) -> str:
        """A class as it is shown: MIDI pitches with their notes.

        >>> TASKS["nsynth_pitch"].class_name("61"), TASKS["gtzan_genre"].class_name("jazz")
        ('61 C♯4', 'jazz')
        """
        if self.name != "nsynth_pitch" or not name.isdecimal():
            return name
        return f"{name} {PITCHES[int(name) % 12]}{int(name) // 12 - 1}"

    def read(self, data_home: Path, protocol: Switches | None = None) -> Dataset:
        """The items below `data_home`/`corpus`, from JSONL files if there are any; TaskError if they are missing."""
        home = Path(data_home) / self.corpus
        if not home.is_dir():
            raise TaskError(home, "there is no such folder", f"{self.get}; put it there")
        if jsonl.files(home, self.name):
            return jsonl.read(home, self.name, self.kind).checked(home)
        module, _, function = self.reader.partition(":")
        read = getattr(import_module(f"mir_benchmarks.datasets.{module}"), function)
        dataset: Dataset = read(home, self.protocol(protocol))
        return dataset.checked(home)

    def expected_counts(self, home: Path, protocol: Switches | None = None) -> dict[str, int]:
        """Items the splits must have: official counts, or those in the notes of a generated tree; 0 if unknown."""
        facts, counts = synthetic_facts(home), self.counts
        by_switch = [self.counts_by_switch[value] for value in self.protocol(protocol).items()
                     if value in self.counts_by_switch]  # fmt: skip
        if jsonl.files(home, self.name) or (facts and by_switch):
            counts = (0, 0, 0)
        elif facts:
            generated = facts["counts"].get(self.name, {})
            return {split: int(generated.get(split, 0)) for split in SPLITS}
        elif by_switch:
            counts = by_switch[0]
        return dict(zip(SPLITS, counts, strict=True))

    def windows_under(self, protocol: Switches) -> ClipWindows:
        """How recordings are cut under these switches."""
        chosen = (self.windows_by_switch[value] for value in protocol.items() if value in self.windows_by_switch)
        return next(chosen, self.windows)


MTG: dict[str, Any] = {
    "corpus": "mtg-jamendo", "kind": "multilabel", "windows": ClipWindows(30.0), "monitor": "roc_auc",
    "metrics": ("roc_auc", "ap"), "patience": (3, 10),
    "get": "clone MTG/mtg-jamendo-dataset (data/splits/split-0) and run its scripts/download/download.py "
           "--type audio-low (tracks below audio-low/) or audio (below audio/)",
}  # fmt: skip
GTZAN: dict[str, Any] = {
    "corpus": "gtzan", "counts": (443, 197, 290), "counts_by_switch": {("gtzan_jazz54", "drop"): (442, 197, 290)},
    "patience": (6, 20),
    "get": "the 1,000 excerpts as genres/<genre>/<genre>.000NN.wav (any mirror), for beats also "
           "TempoBeatDownbeat/gtzan_tempo_beat's beats/ (or GTZAN-Rhythm's jams/)",
}  # fmt: skip
NSYNTH: dict[str, Any] = {
    "corpus": "nsynth", "kind": "classification", "counts": (289_205, 12_678, 4_096), "windows": ClipWindows(4.0),
    "monitor": "accuracy", "metrics": ("accuracy",), "max_epochs": 50, "patience": (3, 10),
    "get": "nsynth-{train,valid,test}.jsonwav.tar.gz from magenta.tensorflow.org, unpacked",
}  # fmt: skip
VOCALSET_S = 132_000 / 44_100
VOCALSET: dict[str, Any] = {
    "corpus": "vocalset", "kind": "classification", "windows": ClipWindows(VOCALSET_S, tail="drop", trim=True),
    "monitor": "accuracy", "metrics": ("accuracy",), "get": "VocalSet11.zip (Zenodo 1203819), unpacked: FULL/",
    "switches": {"vocalset_tail": ("drop", "keep")}, "per_window": True, "counts": (0, 0, 0), "n_artists": 20,
    "version": "2",  # 1 named some singers by file names that disagree with their folders, and left out six recordings
    "windows_by_switch": {("vocalset_tail", "keep"): ClipWindows(VOCALSET_S, trim=True)},
}  # fmt: skip

_TASKS = (
    TaskSpec(
        "mtt", "MagnaTagATune tagging", "magnatagatune", "mtt:read", "multilabel", (18_706, 1_825, 5_329),
        ClipWindows(30.0), "roc_auc", ("roc_auc", "ap"), patience=(3, 10), switches={"mtt_untagged": ("keep", "drop")},
        counts_by_switch={("mtt_untagged", "drop"): (15_247, 1_529, 4_332)},
        get="mp3.zip.001 to .003 and annotations_final.csv of MagnaTagATune (mirg.city.ac.uk), unpacked: mp3/<letter>/",
    ),
    TaskSpec(
        "giantsteps_key", "GiantSteps key", "giantsteps", "giantsteps:read", "key", (923, 236, 604),
        ClipWindows(30.0, tail="drop"), "weighted_score", ("weighted_score", "accuracy"),
        switches={"gs_ensemble": ("valid-selected", "mean-logit")},
        get="clone GiantSteps/giantsteps-key-dataset (c8cb8aad) and GiantSteps/giantsteps-mtg-key-dataset (fd7b8c58), "
            "each with its audio/",
    ),
    TaskSpec(
        "gtzan_genre", "GTZAN genre", reader="gtzan:read_genre", kind="classification", windows=ClipWindows(30.0),
        monitor="accuracy", metrics=("accuracy",), switches={"gtzan_jazz54": ("keep", "drop")}, **GTZAN,
    ),
    TaskSpec(
        "gtzan_beats", "GTZAN beat tracking", reader="gtzan:read_beats", kind="beats",
        windows=ClipWindows(30.0, pooled=False), monitor="f_measure", metrics=("f_dbn", "f_peak"),
        switches={"beat_post": ("dbn", "peak"), "beat_tol": ("0.07", "0.02"), "beat_agg": ("mean", "pooled"),
                  "beat_trim": ("0", "5"), "gtzan_jazz54": ("keep", "drop")},
        **GTZAN,
    ),
    TaskSpec(
        "emomusic", "EMO valence and arousal", "emomusic", "emomusic:read", "regression", (504, 115, 125),
        ClipWindows(5.0), "r2", ("r2_valence", "r2_arousal"),
        switches={"emo_window": ("5s-of-45", "5s-of-30", "15s")},
        windows_by_switch={
            ("emo_window", "15s"): ClipWindows(15.0), ("emo_window", "5s-of-30"): ClipWindows(5.0, crop_s=30.0),
        },
        get="clips_45sec.tar.gz and annotations.tar.gz of emoMusic (cvml.unige.ch/databases/emoMusic), unpacked",
    ),
    TaskSpec("nsynth_instrument", "NSynth instrument", reader="nsynth:read_instrument", **NSYNTH),
    TaskSpec("nsynth_pitch", "NSynth pitch", reader="nsynth:read_pitch", **NSYNTH),
    TaskSpec(
        "vocalset_technique", "VocalSet technique", reader="vocalset:read_technique", patience=(5, 10), **VOCALSET,
    ),
    TaskSpec("vocalset_singer", "VocalSet singer", reader="vocalset:read_singer", **VOCALSET),
    TaskSpec(
        "mtg_instrument", "MTG-Jamendo instrument", reader="jamendo:read_instrument", counts=(14_395, 5_466, 5_115),
        **MTG,
    ),
    TaskSpec(
        "mtg_moodtheme", "MTG-Jamendo mood/theme", reader="jamendo:read_moodtheme", counts=(9_949, 3_802, 4_231), **MTG,
    ),
    TaskSpec("mtg_genre", "MTG-Jamendo genre", reader="jamendo:read_genre", counts=(32_572, 11_043, 11_479), **MTG),
    TaskSpec("mtg_top50", "MTG-Jamendo top50", reader="jamendo:read_top50", counts=(32_136, 10_888, 11_356), **MTG),
    TaskSpec(
        "musdb18", "MUSDB18 separation", "musdb18", "musdb:read", "separation", (86, 14, 50),
        ClipWindows(6.0, pooled=False), "sdr", ("sdr_vocals", "sdr_drums", "sdr_bass", "sdr_other"),
        switches={"sdr": ("global", "museval"), "musdb_segments": ("16", "64", "8", "4"),
                  "musdb_hidden": ("512", "128", "64"), "musdb_epochs": ("100", "30", "20", "10")},
        get="MUSDB18-HQ (Zenodo 3338373), or musdb18.zip (Zenodo 1117372) with the codecs extra: train/, test/",
    ),
)  # fmt: skip
TASKS: dict[str, TaskSpec] = {task.name: task for task in _TASKS}
