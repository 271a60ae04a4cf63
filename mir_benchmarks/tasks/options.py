"""Options of a run of a task."""

from __future__ import annotations

from dataclasses import dataclass, field

from probes.sweep import GridOptions


@dataclass(frozen=True)
class Options(GridOptions):
    """How to run a task: the grid of `GridOptions`, and how heads are fitted.

    At most `limit` items of each split are used, which marks the result. `protocol` holds protocol switches by name;
    `max_epochs` may only lower a task's own number.
    """

    standardize: bool = True
    max_epochs: int | None = None
    limit: int | None = None
    protocol: dict[str, str] = field(default_factory=dict)

    def epochs(self, published: int) -> int:
        """The task's own number of epochs, or fewer if asked for."""
        return min(published, self.max_epochs or published)
