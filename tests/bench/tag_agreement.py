"""Agreement of `m.describe` with musicnn on recordings held out: `python tag_agreement.py GAMES [MODEL]`.

Tracks of `games.py` that are not for training, four clips of 10 s each. A tag occurs in a clip if musicnn gives it 0.15
or more, as in the labels that the heads were fitted on; the area under the ROC curve is a mean over the tags that occur
in at least 5 clips and are absent from as many.
Shapes: B clips, N samples, P tags.
"""

import sys
from pathlib import Path

import games
import numpy as np
import soundfile
import torch
from sklearn.metrics import roc_auc_score

import mert
from teachers.musicnn.teacher import TAG_NAMES, MusicnnTeacher

PLACES, CLIP_S = 4, 10
OCCURS, LEAST = 0.15, 5
TAGGERS = {"magnatagatune": "MTT", "millionsong": "MSD"}


def clips(folder: Path) -> list[np.ndarray]:
    """Clips of tracks that are for measurement."""
    tracks = [track.path for track in games.tracks(folder) if track.role != "train"]
    starts = [(path, s) for path in tracks for s in np.linspace(5, soundfile.info(path).duration - CLIP_S - 5, PLACES)]
    return [games.read(path, start_s, CLIP_S) for path, start_s in starts]


def main(folder: Path, name: str) -> None:
    """Print a row for each tagger."""
    m, teacher = mert.load(name), MusicnnTeacher.installed()
    waves = [wave_N for wave_N in clips(folder) if np.abs(wave_N).max() > 1e-3]
    of_teacher = [teacher.tags(torch.from_numpy(wave_N)[None]) for wave_N in waves]
    described = [m.describe(wave_N, sr=games.RATE_HZ).predictions for wave_N in waves]
    print("| head | tags that occur | clips | mean area under the ROC curve | least and most |\n|---|---|---|---|---|")
    for head, tagger in TAGGERS.items():
        wanted_BP = np.stack([tags[tagger][0].numpy() for tags in of_teacher]) >= OCCURS
        areas = {}
        for tag, wanted_B in zip(TAG_NAMES[tagger], wanted_BP.T, strict=True):
            scores = [(each[head].scores or {}).get(tag) for each in described]
            if None not in scores and LEAST <= wanted_B.sum() <= len(wanted_B) - LEAST:
                areas[tag] = float(roc_auc_score(wanted_B, scores))
        worst, best = min(areas, key=areas.__getitem__), max(areas, key=areas.__getitem__)
        print(f"| {head} | {len(areas)} | {len(waves)} | {100 * np.mean(list(areas.values())):.1f} | "
              f"{worst} {100 * areas[worst]:.1f}, {best} {100 * areas[best]:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "mert-nano")
