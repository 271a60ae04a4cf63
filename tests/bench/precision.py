"""How near bfloat16 and int8 come to float32 on recordings: the least mean cosine of a layer, and the worst frame."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import mert
from mert.audio.find import SUFFIXES


def main() -> None:
    paths = [path for path in sorted(Path(sys.argv[1]).rglob("*")) if path.suffix.lower() in SUFFIXES]
    for m in (mert.load("mert-nano", device="cpu"), mert.random_model("95m")):
        exact = [features.values.astype(np.float64) for features in m.embed_many(paths, dtype="float32")]
        for dtype in ("bfloat16", "int8"):
            cosines = []
            for wanted_LTD, got in zip(exact, m.embed_many(paths, dtype=dtype), strict=True):
                products_LT = (wanted_LTD * got.values).sum(2)
                cosines.append(products_LT / np.linalg.norm(wanted_LTD, axis=2) / np.linalg.norm(got.values, axis=2))
            cosines_LT = np.concatenate(cosines, axis=1)
            heard = f"{len(paths)} recordings, {cosines_LT.shape[1]} frames"
            print(f"{m.info.name}, {dtype}: {heard}; least mean of a layer "
                  f"{cosines_LT.mean(1).min():.5f}, worst frame {cosines_LT.min():.5f}")  # fmt: skip


if __name__ == "__main__":
    main()
