"""The sizes of the suite: recordings of each corpus, and what a run on it costs at most."""

from dataclasses import dataclass

from mir_benchmarks.datasets.dataset import SPLITS


@dataclass(frozen=True)
class Extent:
    """Recordings in each split, for each of a corpus's `groups` (genres, singers), and their length."""

    train: int
    valid: int
    test: int
    seconds: float
    groups: int = 1

    @property
    def counts(self) -> dict[str, int]:
        """Recordings of all groups in each split."""
        return {split: getattr(self, split) * self.groups for split in SPLITS}

    @property
    def splits(self) -> list[str]:
        """The split of each recording of a group, in order.

        >>> Extent(2, 1, 1, 5.0).splits
        ['train', 'train', 'valid', 'test']
        """
        return [split for split in SPLITS for _ in range(getattr(self, split))]

    def __len__(self) -> int:
        return len(self.splits) * self.groups


SIZES: dict[str, dict[str, Extent]] = {
    "tiny": {
        "gtzan": Extent(2, 1, 1, 6.0, groups=10),
        "giantsteps": Extent(24, 8, 12, 4.0),
        "magnatagatune": Extent(16, 10, 10, 4.0),
        "emomusic": Extent(20, 8, 10, 5.0),
        "nsynth": Extent(33, 10, 10, 4.0),
        "vocalset": Extent(2, 1, 1, 3.2, groups=20),
        "mtg-jamendo": Extent(16, 10, 10, 4.0),
        "musdb18": Extent(3, 2, 2, 6.0),
    },
    "small": {
        "gtzan": Extent(14, 5, 11, 6.0, groups=10),
        "giantsteps": Extent(150, 40, 100, 7.0),
        "magnatagatune": Extent(150, 50, 100, 4.0),
        "emomusic": Extent(150, 40, 100, 4.0),
        "nsynth": Extent(220, 40, 100, 4.0),
        "vocalset": Extent(10, 6, 4, 3.3, groups=20),
        "mtg-jamendo": Extent(170, 50, 110, 4.0),
        "musdb18": Extent(20, 6, 14, 8.0),
    },
    "sampled": {
        "gtzan": Extent(10, 4, 10, 6.0, groups=10),
        "giantsteps": Extent(150, 40, 100, 7.0),
        "magnatagatune": Extent(150, 50, 100, 4.0),
        "emomusic": Extent(150, 40, 100, 4.0),
        "nsynth": Extent(440, 80, 160, 4.0),
        "vocalset": Extent(6, 4, 4, 3.3, groups=20),
        "mtg-jamendo": Extent(170, 50, 110, 4.0),
        "musdb18": Extent(16, 5, 14, 8.0),
    },
}


def is_sampled(size: str) -> bool:
    """Whether sound fonts play in a suite of this size; in others all sound is synthetic."""
    return size.startswith("sampled")


# Options of runs on a suite, so that two cores suffice; results record them.
SWITCHES = {
    "tiny": {"musdb_segments": "4", "musdb_hidden": "64"},
    "small": {"musdb_segments": "4", "musdb_hidden": "64", "musdb_epochs": "20"},
    "sampled": {"musdb_segments": "4", "musdb_hidden": "64", "musdb_epochs": "20"},
}
MAX_EPOCHS: dict[str, int | None] = {"tiny": 30, "small": None, "sampled": None}
