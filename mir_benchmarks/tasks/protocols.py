"""The two protocols of the benchmark: the hub's own, and MARBLE's as far as it can be set here.

MARBLE's is that of its paper (arXiv 2306.10548) and of the code behind it, its branch main-v1-archived.
"""

from __future__ import annotations

from dataclasses import replace

from mert.errors import UsageError
from mir_benchmarks.conditions import HUB, MARBLE, MARBLE_SEEDS
from mir_benchmarks.tasks.kind import Options
from mir_benchmarks.tasks.registry import TaskSpec
from probes.encoders import EncoderFacts
from probes.sweep import SEEDS

MARBLE_SWITCHES = {"emo_window": "5s-of-30", "beat_agg": "pooled", "musdb_segments": "64", "features": "raw"}
MARBLE_COMPUTED = {"dtype": "float32", "context": "window"}  # of the encoder
STILL_OTHER = (
    "layer and learning rate are chosen on validation (MARBLE fixes a layer for each task)",
    "waves are normalised window by window (MARBLE: by recording)",
    "features are kept in 16 bits, and heads fitted in 32 (MARBLE: 32 bits, mixed precision)",
)
STILL_OTHER_OF = {
    "vocalset": ("splits and the rule for leading silence are our own", "windows are not z-normalised"),
    "beats": ("beats are fitted without downbeats, to targets of 1, 0.5 and 0.25, the epoch by validation loss",),
    "separation": (
        "segments are a fixed pool, half of them remixed (MARBLE remixes all in each epoch)",
        "the LSTM is bidirectional, sound is stereo, batches have 16 segments, the Wiener filter no residual",
    ),
}


def follow(options: Options, facts: EncoderFacts) -> Options:
    """The options with all that their protocol fixes; UsageError where they, or the encoder, ask for something else."""
    if options.rules == HUB:
        return options
    if options.rules != MARBLE:
        raise UsageError(f"protocol {options.rules}", "there is no such protocol", f"give {HUB} or {MARBLE}")
    asked = {name: (options.protocol.get(name, value), value) for name, value in MARBLE_SWITCHES.items()}
    asked |= {name: (getattr(facts, name), value) for name, value in MARBLE_COMPUTED.items()}
    if options.seeds not in (SEEDS, MARBLE_SEEDS):
        asked["seeds"] = str(options.seeds), str(MARBLE_SEEDS)
    for name, (given, fixed) in asked.items():
        if given != fixed:
            raise UsageError(f"protocol {MARBLE}", f"{name} is {fixed}, not {given}", "leave it out, or take the hub's")
    switches = MARBLE_SWITCHES | options.protocol
    return replace(options, seeds=MARBLE_SEEDS, protocol=switches)


def deviations(task: TaskSpec, options: Options) -> list[str]:
    """A note on what is other than in MARBLE's protocol all the same."""
    if options.rules != MARBLE:
        return []
    own = STILL_OTHER_OF.get(task.corpus, STILL_OTHER_OF.get(task.kind, ()))
    return [f"MARBLE's protocol, but for this: {'; '.join((*own, *STILL_OTHER))}"]
