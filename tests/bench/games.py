"""Recordings of free games: `python games.py GAMES OUT` cuts those for training into clips of 3 s, with a manifest.

GAMES has a folder for each game, as `dpkg -x` unpacks Debian's megaglest-data, naev-data, supertuxkart-data,
warzone2100-music, wesnoth-1.16-music and widelands-data; 0ad-data keeps its music in a zip, to be unpacked there, too.
Half of the tracks of six games, and all of 0ad-data, are no part of any measurement. Of these, a model is trained on
those that their package puts under a Creative Commons licence.
Shapes: N samples, C channels.
"""

import json
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile
import soxr

RATE_HZ, CLIP_S = 24_000, 3
ENDINGS = (".ogg", ".opus", ".mp3", ".wav", ".flac")
LEAST_S = 40  # of a track; what is shorter is an effect or a jingle
MEASURED = 16  # tracks of each game, at most half of its tracks
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


@cache
def licences(game: Path) -> list[tuple[list[str], str]]:
    """Patterns of names with their licence, in the order of the copyright file; empty if it has no such lists."""
    paragraphs = re.split(r"\n\s*\n", next(game.rglob("copyright")).read_text(encoding="utf-8"))
    fields = [dict(re.findall(r"^(Files|License):((?:.*\n?)(?:[ \t].*\n?)*)", text, re.M)) for text in paragraphs]
    return [(each["Files"].split(), each["License"].split("\n")[0].strip()) for each in fields if len(each) == 2]


def licence_of(track: Path, game: Path) -> str:
    """The licence of a track; of several patterns the last one that is not about the packaging counts."""
    found = [
        licence for patterns, licence in licences(game)
        if any(fnmatch(track.name, pattern.rsplit("/", 1)[-1]) for pattern in patterns if "debian/" not in pattern)
    ]  # fmt: skip
    return found[-1] if found else "unknown"


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
        licence = licence_of(track.path, games / track.game)
        if track.role == "train" and "CC" in licence:
            wave_N = read(track.path, 0, soundfile.info(track.path).duration)
            for i, part_N in enumerate(np.split(wave_N, range(n, len(wave_N), n))):
                if len(part_N) == n and part_N.std() > 1e-3:
                    name = f"audio/{track.game}-{number}-{i:04}.wav"
                    soundfile.write(
                        out / name, part_N / max(1.0, float(np.abs(part_N).max())), RATE_HZ, subtype="PCM_16"
                    )
                    rows.append({"audio": name, "source": f"{track.game}/{track.path.name}", "licence": licence})
    (out / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
