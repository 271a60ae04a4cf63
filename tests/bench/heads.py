"""The heads of a bundled model, fitted anew: `python heads.py GAMES MODEL OUT`; they end in OUT/heads.

On sampled music, and those of tags on tracks of `games.py`, too, whose GAMES this is. What is in OUT already is kept.
Shapes: N samples.
"""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import games
import soundfile

from mert.files import read_rows

HOURS, CLIP_S, SEED = 8, 12, 41
LAYERS = "layer01,layer02,layer05"
BEATS_OF = 1_200  # clips: frames of more do not fit in memory
TAGS_OF, STARTS_S, TAG_S = 1_400, (0, 6), 3
LEAST, SILENCE = "0.15", 1e-3
COMMON = 30  # pieces and tracks that a tag is given to, so that each split has some
DECIDE = "decide nothing that matters by it"
ON_MUSIC = (f"fitted on {HOURS} h of data=sampled in clips of {CLIP_S} s (seed {SEED}): sampled instruments, composed "
            "and real scores, no recordings; split by piece")  # fmt: skip
ON_BOTH = ("fitted on clips of 3 s: sampled music, and tracks of free games under CC BY-SA 3.0, CC BY-SA 4.0 and CC BY "
           "3.0, by which this head is under CC BY-SA 4.0; split by piece and track")  # fmt: skip
OPINION = "it learned the probabilities that musicnn's {} tagger gives, an opinion; scored by those of 0.15 or more"
HEADS = {  # name: words of `mert probe fit`, notes
    "key": ((), (ON_MUSIC, "classes are spelled as mir_eval spells them; a piece that modulates has the key of most of "
                 "it, or none")),
    "instruments": (("--head", "linear"), (ON_MUSIC, "what sounds in a tenth of a clip or more; drums by a stroke; "
                    "sampled and synthetic instruments only")),
    "voice": (("--head", "linear"), (ON_MUSIC, "voices were synthetic or sampled choirs: a recorded singer is new to "
              "it")),
    "beats": (("--post", "dbn", "--lrs", "0.001", "--layers", "layer02"),  # one layer, as a fit takes long
              (ON_MUSIC.replace("8 h", "4 h"), "beats of scores, by a dynamic Bayesian network at 55 to 215 BPM")),
    "magnatagatune": (("--lrs", "0.0001,0.0005"), (ON_BOTH, OPINION.format("MTT"))),
    "millionsong": (("--lrs", "0.0001,0.0005"), (ON_BOTH, OPINION.format("MSD"))),
}  # fmt: skip


def run(out: Path, *words: object) -> None:
    """A command of mert that writes `out`, unless it is there."""
    if not out.exists():
        print("mert", *words, "-o", out, flush=True)
        part = out.with_name(f"{out.name}.part")
        subprocess.run([sys.executable, "-m", "mert", *map(str, words), "-o", str(part)], check=True)
        part.rename(out)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def cut(music: Path, tracks: Path, out: Path) -> None:
    """Clips of TAG_S of the music and of tracks of games in `out`/audio, unless they are there."""
    if out.exists():
        return
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    games.main(tracks, part)
    for row in read_rows(music / "scores.jsonl")[:TAGS_OF]:
        for start_s in STARTS_S:
            start = start_s * games.RATE_HZ
            wave_N, _ = soundfile.read(music / row["path"], TAG_S * games.RATE_HZ, start, dtype="float32")
            if wave_N.std() > SILENCE:
                soundfile.write(part / "audio" / name_of(row, start_s), wave_N, games.RATE_HZ, subtype="PCM_16")
    part.rename(out)


def name_of(row: Mapping[str, str], start_s: int) -> str:
    """The file of a clip of the music."""
    return f"{Path(row['path']).stem}-{start_s}.wav"


def groups_of(music: Path, clips: Path) -> dict[str, str]:
    """The piece, recording or track that each clip is of."""
    of_music = {
        name_of(row, start_s): row["piece"] or row["path"]
        for row in read_rows(music / "scores.jsonl")
        for start_s in STARTS_S
    }
    return of_music | {Path(row["audio"]).name: row["source"] for row in read_rows(clips / "clips.jsonl")}


def common_tags(rows: list[dict[str, str]], groups: Mapping[str, str]) -> list[dict[str, str]]:
    """The rows of a table of tags with the group of each clip, without the tags of fewer than COMMON groups."""
    pairs = {(tag, groups[row["file"]]) for row in rows for tag in row["tags"].split(";")}
    counts = Counter(tag for tag, _ in pairs)
    rare = {column for column in rows[0] if column not in ("file", "tags") and counts[column] < COMMON}
    return [
        {column: value for column, value in row.items() if column not in rare}
        | {"tags": ";".join(tag for tag in row["tags"].split(";") if tag not in rare), "group": groups[row["file"]]}
        for row in rows
    ]


def label(out: Path, tracks: Path) -> None:
    """The tables of labels: of the scores, of beats in a part of them, and of tags, with their groups."""
    labels, music, clips = out / "labels", out / "music", out / "clips"
    run(labels, "bench", "labels", music / "scores.jsonl")
    beats = rows_of(labels / "beats.csv")
    few = set([*dict.fromkeys(row["file"] for row in beats)][:BEATS_OF])
    write_table(labels / "beats.csv", [row for row in beats if row["file"] in few])
    cut(music, tracks, clips)
    run(out / "tags", "label", clips / "audio", "--least", LEAST)
    groups = groups_of(music, clips)
    for name in ("magnatagatune", "millionsong"):
        write_table(labels / f"{name}.csv", common_tags(rows_of(out / "tags" / f"{name}.csv"), groups))


def main(tracks: Path, model: str, out: Path) -> None:
    """Make the music and the labels, embed, fit, and say in each head what it was fitted on."""
    out.mkdir(parents=True, exist_ok=True)
    run(out / "music", "bench", "synth", HOURS, "--sampled", "--seconds", CLIP_S, "--seed", SEED, "--format", "wav")
    label(out, tracks)
    words = ("-m", model, "--dtype", "float32", "--layers", LAYERS)
    run(out / "features", "embed", out / "music", *words)
    run(out / "features-of-tags", "embed", out / "clips" / "audio", *words)
    (out / "heads").mkdir(exist_ok=True)
    for name, (more, notes) in HEADS.items():
        features = out / ("features-of-tags" if ON_BOTH in notes else "features")
        table = out / "labels" / f"{name}.csv"
        layers = () if "--layers" in more else ("--layers", LAYERS)
        run(out / "heads" / name, "probe", "fit", features, table, "--seeds", "0", "--partial", *layers, *more)
        path = out / "heads" / name / "head.json"
        head = json.loads(path.read_text(encoding="utf-8"))
        head["notes"] = [*dict.fromkeys([*notes, DECIDE, *head["notes"]])]
        path.write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
