"""`make demo`: synthesise or read a song, embed it, show the features and the speed."""

import math
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

import mert
from mert.audio.recording import Recording
from mert.cli.terminal import DEFAULT

RATE_HZ = 24_000
BAR_S = 2.0
CHORDS = {"Am": (57, 60, 64), "F": (53, 57, 60), "C": (48, 52, 55), "G": (55, 59, 62), "E": (52, 56, 59)}
SECTIONS = {"A": ("Am", "F", "C", "G"), "B": ("F", "F", "E", "E")}
FORM = "ABA"  # what the self-similarity picture should show
MADE_OF = "in A minor, plucked chords and noise four times a bar at 120 BPM, a pad of sines in B, no voice"


def song(seed: int = 0) -> np.ndarray:
    """A little piece of form ABA, 24 s at 24 kHz: plucked chords and a beat in A, a soft pad in B."""
    random = np.random.default_rng(seed)
    wave_N = np.concatenate([_bar(CHORDS[chord], part, random) for part in FORM for chord in SECTIONS[part]])
    return (0.8 * wave_N / np.abs(wave_N).max()).astype(np.float32)


def _bar(chord: tuple[int, ...], section: str, random: np.random.Generator) -> np.ndarray:
    t_N = np.arange(int(BAR_S * RATE_HZ)) / RATE_HZ
    tones_hz = 440 * 2 ** ((np.array(chord)[:, None] - 69) / 12)
    if section == "B":
        return np.sin(2 * np.pi * tones_hz * t_N).sum(0) * np.sin(np.pi * t_N / BAR_S)
    plucked_N = sum(np.sin(2 * np.pi * k * tones_hz * t_N).sum(0) / k for k in range(1, 8)) * np.exp(-6 * (t_N % 0.5))
    return plucked_N + random.standard_normal(len(t_N)) * np.exp(-40 * (t_N % 0.25))


def embedded(m: mert.Embedder, audio: Path) -> mert.Features:
    """The features of `m.embed(audio)`, window by window under a progress bar."""
    recording = Recording(audio)
    expected_s = recording.claimed_seconds()
    windows = math.ceil(expected_s / m.window_s) if math.isfinite(expected_s) else None
    stream = m.stream(recording.blocks(m.sample_rate), sr=m.sample_rate)
    parts = list(track(stream, "embedding", total=windows))
    values_LTD = np.concatenate([part.values for part in parts], axis=1)
    times_T = m.clock.times(0, values_LTD.shape[1])
    return mert.Features(values_LTD, times_T, parts[0].layers, parts[-1].meta | {"source": str(audio)})


def main(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo_out"),
    audio: Annotated[Path | None, typer.Option(help="Your own recording; default: a synthesised one.")] = None,
) -> None:
    """Embed a recording with `mert-nano`, the model that comes with the package, and draw its self-similarity."""
    import soundfile

    from mert.plots import plot_ssm, save_axes

    out.mkdir(parents=True, exist_ok=True)
    made_of = "" if audio else f"the song was made {MADE_OF}\n"
    if audio is None:
        audio = out / "song.wav"
        soundfile.write(audio, song(), RATE_HZ)
        typer.echo(f"synthesised {audio}: 24 s, form {FORM}")
    m = mert.load(DEFAULT)
    typer.echo(f"{m.info.name}: {m.info.licence}, {m.info.note}")
    start = time.perf_counter()
    features = embedded(m, audio)
    elapsed = time.perf_counter() - start
    n_layers, n_frames, dim = features.values.shape
    seconds = features.meta["seconds"]
    features.save(out / "features.npz")
    save_axes(plot_ssm(features, m.recommended_layer), out / "self_similarity.png")
    times = features.times if features.times is not None else np.zeros(1)
    typer.echo(
        f"embedded {audio}: {seconds:.2f} s in {elapsed:.2f} s ({seconds / elapsed:.0f} x real time, "
        f"{m.info.n_params / 1e6:.1f} M parameters, {m.device})\n"
        f"features: {n_layers} layers ({m.layer_names[0]}, {m.layer_names[1]} ... {m.layer_names[-1]}) x "
        f"{n_frames} frames x {dim}, times {times[0]:.4f} to {times[-1]:.4f} s\n"
        f"files: {out / 'features.npz'}, {out / 'self_similarity.png'}\n"
        f"{made_of}described: {m.describe(audio)}"
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except mert.MertError as error:
        raise SystemExit(f"error: {error}") from None
