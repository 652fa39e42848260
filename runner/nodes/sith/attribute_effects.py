"""What passes from ``sith.attribute_effect`` to ``sith.edit``. Light: imported to validate a spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from runner.steps import Artifact, Rows, Table


@dataclass(frozen=True)
class AttributeEffects(Artifact):
    """Which directions carry an attribute, strongest first. Ours, not the paper's; ``model`` as in ``HeadDirections``."""

    model: dict[str, object]
    effects: Annotated[Table, Rows("sith_effect")]
