"""The learning rate of each update."""


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """The rate of update `step` (from 1): linear warm-up to `peak`, then linear decay to 0 at `steps`.

    >>> [learning_rate(step, 10, 2, 1.0) for step in (1, 2, 6, 10)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    return peak * (steps - step) / (steps - warmup_steps)
