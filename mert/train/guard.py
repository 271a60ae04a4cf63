"""Updates that must not happen: losses that are no numbers, or jump."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SPIKE = 2.0  # times the running mean of the loss
MEMORY = 0.98
FIRST = 20  # steps before a jump can be told


@dataclass
class Guard:
    """Judges each step by its loss and gradient norm; its state travels with checkpoints.

    >>> guard = Guard()
    >>> guard.judge(float("nan"), 1.0), guard.bad_in_a_row, guard.judge(2.0, 1.0), guard.bad_in_a_row
    ('loss is nan', 1, None, 0)
    """

    mean: float = 0.0
    seen: int = 0
    bad_in_a_row: int = 0

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Why the update is to be skipped; None for a good one, which enters the running mean."""
        reason = None
        if not math.isfinite(loss):
            reason = f"loss is {loss}"
        elif not math.isfinite(grad_norm):
            reason = f"gradient norm is {grad_norm}"
        elif self.seen >= FIRST and loss > SPIKE * self.mean:
            reason = f"loss {loss:.3f} is over {SPIKE:g} times its running mean {self.mean:.3f}"
        if reason:
            self.bad_in_a_row += 1
            return reason
        self.mean = loss if self.seen == 0 else MEMORY * self.mean + (1 - MEMORY) * loss
        self.seen, self.bad_in_a_row = self.seen + 1, 0
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"mean": self.mean, "seen": self.seen, "bad_in_a_row": self.bad_in_a_row}
