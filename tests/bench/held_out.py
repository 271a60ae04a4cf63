"""Four measures on sound that no model here was made from: `python held_out.py GAMES MODEL...`.

Logistic regression on means over time: the family and the pitch of notes (fitted on one sound font, scored on another),
the key of held-out pieces (mir_eval's weighted score), and which game a soundtrack is of (tracks that `games.py`, whose
GAMES this is, does not give to training). MODEL is a name or folder, or log-mel, mfcc or chroma. In brackets 95 %
intervals over programs, pieces and tracks (those that are scored; the fit is one).
Shapes: B clips, N samples, L layers, D width.
"""

import sys
from collections.abc import Callable, Iterator
from operator import eq
from pathlib import Path
from typing import NamedTuple

import games
import mir_eval
import numpy as np
import soundfile
import torch
import torchaudio
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import mert
from mir_benchmarks.statistics import Jackknife, keeping
from mir_benchmarks.synth.banks import Stroke, play
from mir_benchmarks.synth.programs import FAMILIES, UNPITCHED, range_of
from mir_benchmarks.synth.sampled import SampledCorpus

RATE_HZ, FIT, SCORE = 24_000, 0, 1
NOTES_EACH, LOWEST, HIGHEST = 8, 36, 84
N_KEYS, KEY_S = {FIT: ("valid", 1000), SCORE: ("test", 300)}, 6.0
PLACES, TRACK_S = 10, 5
Features = Callable[[np.ndarray], np.ndarray]  # int16 [B, N] -> [B, L, D]


class Clips(NamedTuple):
    """Clips with their labels, and which of them a head is fitted on."""

    waves_BN: np.ndarray
    labels_B: np.ndarray
    split_B: np.ndarray
    group_B: np.ndarray


def clips(rows: Iterator[tuple[np.ndarray, object, int, str]]) -> Clips:
    """Clips at one peak, as 16 bits."""
    waves, labels, splits, groups = zip(*rows, strict=True)
    peaks = [wave_N / max(np.abs(wave_N).max(), 1e-9) for wave_N in waves]
    waves_BN = (np.stack(peaks) * 0.9 * 32_767).astype(np.int16)
    return Clips(waves_BN, np.array(labels), np.array(splits), np.array(groups))


def notes() -> Iterator[tuple[np.ndarray, tuple[int, int], int, str]]:
    """Notes of 3 s of all pitched programs: wave, (family, key), split by sound font, program."""
    random = np.random.default_rng(5)
    for split, bank in ((FIT, "fluid"), (SCORE, "csound")):
        for number, family in enumerate(name for name in FAMILIES if name != "plucked"):
            for program in (p for p in FAMILIES[family] if p not in UNPITCHED):
                low, high = max(range_of(program)[0], LOWEST), min(range_of(program)[1], HIGHEST)
                for key in random.choice(np.arange(low, high + 1), NOTES_EACH, replace=high - low < NOTES_EACH):
                    stroke = Stroke(0.05, 2.2, int(key), int(random.integers(50, 120)))
                    wave_N = play(bank, program, [stroke], 3 * RATE_HZ, RATE_HZ)
                    if np.abs(wave_N).max() > 1e-4:
                        yield wave_N, (number, int(key)), split, str(program)


def keys() -> Iterator[tuple[np.ndarray, str, int, str]]:
    """Clips of real pieces that were held out: wave, key, split by purpose, piece."""
    for split, (purpose, wanted) in N_KEYS.items():
        corpus = SampledCorpus(seed=77, n_items=100_000, seconds=KEY_S, rate_hz=RATE_HZ, purpose=purpose)
        pieces = (i for i in range(1, len(corpus)) if corpus.clip(i).piece)
        for i, _ in zip(pieces, range(wanted), strict=False):
            yield corpus.read(i), corpus.score(i).key, split, corpus.clip(i).piece


def soundtracks(folder: Path) -> Iterator[tuple[np.ndarray, str, int, str]]:
    """Clips of the tracks of games that are not for training: wave, game, split by track, track."""
    for track in games.tracks(folder):
        if track.role != "train":
            for start_s in np.linspace(5, soundfile.info(track.path).duration - 12, PLACES):
                wave_N = games.read(track.path, start_s, TRACK_S)[: TRACK_S * RATE_HZ]
                if len(wave_N) == TRACK_S * RATE_HZ and np.abs(wave_N).max() > 1e-3:
                    yield wave_N, track.game, FIT if track.role == "fit" else SCORE, str(track.path)


def by_hand(name: str) -> Features:
    """Hand-made features as one layer."""
    mel = torchaudio.transforms.MelSpectrogram(
        RATE_HZ, 2048, hop_length=320, n_mels=128, norm="slaney", mel_scale="slaney"
    )
    mfcc = torchaudio.transforms.MFCC(RATE_HZ, 20, melkwargs={"n_fft": 1024, "hop_length": 320, "n_mels": 64})

    def chroma(wave_BN: torch.Tensor) -> torch.Tensor:
        spectrum_BFT = torch.stft(wave_BN, 4096, 1024, window=torch.hann_window(4096), return_complex=True).abs()
        hz_F = torch.arange(2049) * RATE_HZ / 4096
        used_F = (hz_F > 60) & (hz_F < 3000)
        classes = (torch.round(12 * torch.log2(hz_F[used_F] / 440)) % 12).long()
        zeros_BPT = torch.zeros(len(wave_BN), 12, spectrum_BFT.shape[2])
        summed_BPT = zeros_BPT.index_add_(1, classes, spectrum_BFT[:, used_F])
        return summed_BPT / (summed_BPT.sum(1, keepdim=True) + 1e-6)

    def features(waves_BN: np.ndarray) -> np.ndarray:
        rows = []
        for part in np.array_split(waves_BN, max(1, len(waves_BN) // 32)):
            wave_BN = torch.from_numpy(part.astype(np.float32) / 32_768)
            wave_BN = (wave_BN - wave_BN.mean(1, keepdim=True)) / wave_BN.std(1, keepdim=True).clamp(min=1e-6)
            if name == "log-mel":
                rows.append((mel(wave_BN) + 1e-5).log().mean(2))
            else:
                values_BPT = mfcc(wave_BN) if name == "mfcc" else chroma(wave_BN)
                rows.append(torch.cat([values_BPT.mean(2), values_BPT.std(2)], 1))
        return torch.cat(rows)[:, None].numpy()

    return features


def of_model(m: mert.Embedder) -> Features:
    """The mean over time of every layer of a model."""

    def features(waves_BN: np.ndarray) -> np.ndarray:
        items = ((wave_N.astype(np.float32) / 32_768, RATE_HZ) for wave_N in waves_BN)
        return np.stack([each.values for each in m.embed_many(items, pool="mean")])

    return features


def predicted(x_BD: np.ndarray, labels_B: np.ndarray, split_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the clips to score, and those that logistic regression predicts."""
    fit, score = split_B == FIT, split_B == SCORE
    scaler = StandardScaler().fit(x_BD[fit])
    model = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(x_BD[fit]), labels_B[fit])
    return labels_B[score], model.predict(scaler.transform(x_BD[score]))


def cell(scores_B: np.ndarray, group_B: np.ndarray) -> str:
    """The mean of scores from 0 to 1, in percent, with its interval."""
    kept_BR = keeping(group_B)
    means_R = scores_B @ kept_BR / kept_BR.sum(0)
    low, high = Jackknife(means_R, len(np.unique(group_B))).interval((0.0, 1.0)) or (np.nan, np.nan)
    return f"{100 * means_R[0]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def measured(x_BD: np.ndarray, of: Clips, labels_B: np.ndarray, score: Callable[[object, object], float]) -> str:
    """The mean score of what is predicted from features."""
    scores_B = np.array([score(*pair) for pair in zip(*predicted(x_BD, labels_B, of.split_B), strict=True)])
    return cell(scores_B, of.group_B[of.split_B == SCORE])


def main(folder: Path, *names: str) -> None:
    """Print a row for each layer of each model."""
    of_notes, of_keys, of_tracks = clips(notes()), clips(keys()), clips(soundtracks(folder))
    print("| features | family | pitch | key | soundtrack |\n|---|---|---|---|---|")
    for name in names:
        m = None if name in ("log-mel", "mfcc", "chroma") else mert.load(name)
        features = of_model(m) if m else by_hand(name)
        note_BLD, key_BLD, track_BLD = (features(part.waves_BN) for part in (of_notes, of_keys, of_tracks))
        for i, layer in enumerate(m.layer_names if m else ("",)):
            family, pitch = (measured(note_BLD[:, i], of_notes, column, eq) for column in of_notes.labels_B.T)
            key = measured(key_BLD[:, i], of_keys, of_keys.labels_B, mir_eval.key.weighted_score)
            track = measured(track_BLD[:, i], of_tracks, of_tracks.labels_B, eq)
            print(f"| {name} {layer} | {family} | {pitch} | {key} | {track} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
