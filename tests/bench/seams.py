"""How much features change where windows end: `python seams.py RECORDING...`, with and without overlap.

The step from one frame to the next at `layer05` of mert-nano: its median where windows end, and over all frames.
Shapes: T frames.
"""

import sys

import numpy as np

import mert


def main(*recordings: str) -> None:
    m = mert.load("mert-nano")
    print(f"{'recording':40} {'hop':>6} {'ends':>6} {'all':>6}")
    for recording in recordings:
        for hop_s in (None, m.window_s / 2):
            features = m.embed(recording, layers="recommended", hop=hop_s)
            step_T = np.linalg.norm(np.diff(features.values[0], axis=0), axis=1)
            window, hop = features.meta["window_frames"], features.meta["hop_frames"]
            ends = np.arange((window + hop) // 2, len(step_T), hop) - 1  # overlapping windows meet in the middle
            medians = [float(np.median(values)) for values in (step_T[ends], step_T)]
            print(f"{recording[-40:]:40} {hop / m.frame_rate:6.2f} {medians[0]:6.1f} {medians[1]:6.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
