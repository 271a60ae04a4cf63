"""Recordings of free games: `python games.py GAMES OUT` cuts those for training into clips of 3 s, with a manifest.

GAMES has a folder for each game, as `dpkg -x` unpacks Debian's megaglest-data, naev-data, supertuxkart-data,
warzone2100-music, wesnoth-1.16-music and widelands-data; 0ad-data keeps its music in a zip, to be unpacked there, too.
Half of the tracks of six games, and all of 0ad-data, are for training; no measurement reads these.
Shapes: N samples, C channels.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile
import soxr

RATE_HZ, CLIP_S = 24_000, 3
ENDINGS = (".ogg", ".opus", ".mp3", ".wav", ".flac")
LEAST_S = 40  # of a track; what is shorter is an effect or a jingle
MEASURED = 16  # tracks of each game, at most half of its tracks
LICENCES = {
    "0ad-data": "CC-BY-SA-3.0",
    "megaglest-data": "CC-BY-SA-3.0",
    "naev-data": "CC-BY-SA-3.0 and others, by file",
    "supertuxkart-data": "CC-BY-SA-3.0 and others, by file",
    "warzone2100-music": "GPL-2.0-or-later",
    "wesnoth-1.16-music": "GPL-2.0-or-later or CC-BY-SA-4.0",
    "widelands-data": "GPL-2.0-or-later",
}
Role = Literal["train", "fit", "score"]


class Track(NamedTuple):
    """A track of a game, and what it is for: training of models, fitting of heads or their score."""

    path: Path
    game: str
    role: Role


def tracks(games: Path) -> Iterator[Track]:
    """All tracks below a folder of games, by game and name."""
    for game in sorted(path for path in games.iterdir() if path.is_dir()):
        files = [path for path in sorted(game.rglob("*")) if path.suffix in ENDINGS and not path.is_symlink()]
        music = [path for path in files if path.parent.name != "sounds" and path.stat().st_size > 400_000]
        found = [path for path in music if soundfile.info(path).duration > LEAST_S]
        measured = 0 if game.name == "0ad-data" else min(MEASURED, len(found) // 2)
        for place, number in enumerate(np.random.default_rng(1).permutation(len(found))):
            role: Role = "train" if place >= measured else "fit" if place % 2 else "score"
            yield Track(found[number], game.name, role)


def read(track: Path, start_s: float, duration_s: float) -> np.ndarray:
    """A part of a track at RATE_HZ, mono."""
    about = soundfile.info(track)
    n, start = int(duration_s * about.samplerate), int(start_s * about.samplerate)
    wave_NC, _ = soundfile.read(track, n, start, dtype="float32", always_2d=True)
    return soxr.resample(wave_NC.mean(1), about.samplerate, RATE_HZ)


def main(games: Path, out: Path) -> None:
    """Write the clips and `clips.jsonl`, which names game, track and licence of each; silence is left out."""
    (out / "audio").mkdir(parents=True)
    rows, n = [], CLIP_S * RATE_HZ
    for number, track in enumerate(tracks(games)):
        if track.role == "train":
            wave_N = read(track.path, 0, soundfile.info(track.path).duration)
            for i, part_N in enumerate(np.split(wave_N, range(n, len(wave_N), n))):
                if len(part_N) == n and part_N.std() > 1e-3:
                    name = f"audio/{track.game}-{number}-{i:04}.wav"
                    soundfile.write(
                        out / name, part_N / max(1.0, float(np.abs(part_N).max())), RATE_HZ, subtype="PCM_16"
                    )
                    rows.append(
                        {"audio": name, "source": f"{track.game}/{track.path.name}", "licence": LICENCES[track.game]}
                    )
    (out / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
