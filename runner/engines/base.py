"""What an engine is: something that runs one step, wherever that may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from runner.context import StepContext
from runner.steps import Artifact, StepDefinition

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class StepCall:
    """One step to run.

    ``gather`` loads inputs and models and returns the keyword arguments; ``keep`` stores what the step returned. Both
    are slow (files, weights), so engines call them away from the event loop.
    """

    definition: StepDefinition
    context: StepContext
    gather: Callable[[], Mapping[str, Any]]
    keep: Callable[[Artifact], Any]


class Engine(Protocol):
    """Runs steps. One engine serves a whole run."""

    async def run(self, call: StepCall) -> Any:
        """Run the step and return what ``call.keep`` returned. Errors of the step pass through unchanged."""

    def stop(self) -> None:
        """Cancel what runs on the event loop; threads notice by ``ctx.check()``. Safe to call from any thread."""

    async def close(self) -> None:
        """Wait for what still runs, then free threads and connections."""
