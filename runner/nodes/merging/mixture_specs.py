"""What a spec says of mixtures and of the objective they are ranked by. Light: imported to validate a spec."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag, field_validator

from runner.keyed import keyed

if TYPE_CHECKING:
    from runner.nodes.merging.mixtures import Weights

Anchor = Literal["uniform", "one_hot"]
Seed = Annotated[int, Field(ge=0, description="of this generator alone")]
Points = Annotated[int, Field(ge=1, le=100_000)]


class Generator(BaseModel):
    """Something that makes points of the simplex."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: ClassVar[str]

    @abstractmethod
    def size(self, k: int) -> int:
        """How many points there are for ``k`` domains, without making them."""

    @abstractmethod
    def points(self, domains: list[str]) -> Weights:
        """Float64 [n, K]. Raises ``ValueError`` where there are none."""


class Lattice(Generator):
    """All mixtures with shares in steps of 1/lattice."""

    key: ClassVar[str] = "lattice"
    lattice: Annotated[int, Field(ge=1, le=1000, description="steps q; shares are multiples of 1/q")]
    interior: Annotated[bool, Field(description="every domain gets at least one step")] = True

    def size(self, k: int) -> int:
        """Points for ``k`` domains."""
        return math.comb(self.lattice - 1, k - 1) if self.interior else math.comb(self.lattice + k - 1, k - 1)

    def points(self, domains: list[str]) -> Weights:
        """See ``mixtures.lattice``."""
        from runner.nodes.merging.mixtures import lattice

        return lattice(len(domains), self.lattice, self.interior)


class Dirichlet(Generator):
    """Random mixtures; with 4 domains, 20 of them and no settings, those of 2602.04937."""

    key: ClassVar[str] = "dirichlet"
    dirichlet: Annotated[Points, Field(description="how many")]
    alpha: Annotated[float, Field(gt=0, le=1000, description="1: all mixtures alike; above: towards the equal one")] = (
        1.0
    )
    seed: Seed = 42
    decimals: Annotated[int, Field(ge=1, le=12)] | None = 4
    min_weight: Annotated[float, Field(ge=0, lt=0.5, description="least share of every domain")] = 0.0

    def size(self, k: int) -> int:
        """Points for ``k`` domains."""
        return self.dirichlet

    def points(self, domains: list[str]) -> Weights:
        """See ``mixtures.dirichlet``."""
        from runner.nodes.merging.mixtures import dirichlet

        return dirichlet(len(domains), self.dirichlet, self.alpha, self.seed, self.decimals, self.min_weight)


class Sobol(Generator):
    """Mixtures spread evenly by a scrambled Sobol sequence."""

    key: ClassVar[str] = "sobol"
    sobol: Annotated[Points, Field(description="how many")]
    seed: Seed = 0

    def size(self, k: int) -> int:
        """Points for ``k`` domains."""
        return self.sobol

    def points(self, domains: list[str]) -> Weights:
        """See ``mixtures.sobol``."""
        from runner.nodes.merging.mixtures import sobol

        return sobol(len(domains), self.sobol, self.seed)


class CornersAndCentroids(Generator):
    """Equal mixtures of every set of domains."""

    key: ClassVar[str] = "corners_and_centroids"
    corners_and_centroids: Literal[True]

    def size(self, k: int) -> int:
        """Points for ``k`` domains."""
        return int(2**k - 1)

    def points(self, domains: list[str]) -> Weights:
        """See ``mixtures.corners_and_centroids``."""
        from runner.nodes.merging.mixtures import corners_and_centroids

        return corners_and_centroids(len(domains))


Shares = dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class Explicit(Generator):
    """Mixtures as listed: ``{explicit: [{object: 0.5, count: 0.5}, ...]}``; domains left out get nothing."""

    key: ClassVar[str] = "explicit"
    explicit: Annotated[list[Shares], Field(min_length=1, max_length=100_000)]

    @field_validator("explicit")
    @classmethod
    def _sums(cls, rows: list[Shares]) -> list[Shares]:
        for number, row in enumerate(rows):
            _need_sum(row, f"mixture {number}")
        return rows

    def size(self, k: int) -> int:
        """Points for ``k`` domains."""
        return len(self.explicit)

    def points(self, domains: list[str]) -> Weights:
        """Rows in the order of ``domains``. Raises ``ValueError`` for a domain that there is not."""
        from runner.nodes.merging.mixtures import checked

        return checked([in_order(row, domains) for row in self.explicit])


class Around(Generator):
    """Random mixtures near one."""

    key: ClassVar[str] = "around"
    around: Annotated[Shares, Field(description="the mixture in the middle, {domain: share}")]
    radius: Annotated[float, Field(gt=0, le=1, description="weight of the random part")] = 0.1
    n: Points = 16
    seed: Seed = 0

    @field_validator("around")
    @classmethod
    def _sums(cls, row: Shares) -> Shares:
        return _need_sum(row, "the middle")

    def size(self, k: int) -> int:
        """Points for ``k`` domains."""
        return self.n

    def points(self, domains: list[str]) -> Weights:
        """See ``mixtures.around``."""
        from runner.nodes.merging.mixtures import around

        return around(in_order(self.around, domains), self.radius, self.n, self.seed)


KINDS: dict[str, type[Generator]] = {
    kind.key: kind for kind in (Lattice, Dirichlet, Sobol, CornersAndCentroids, Explicit, Around)
}
GeneratorSpec = Annotated[
    Annotated[Lattice, Tag("mixtures lattice")]
    | Annotated[Dirichlet, Tag("mixtures dirichlet")]
    | Annotated[Sobol, Tag("mixtures sobol")]
    | Annotated[CornersAndCentroids, Tag("mixtures corners_and_centroids")]
    | Annotated[Explicit, Tag("mixtures explicit")]
    | Annotated[Around, Tag("mixtures around")],
    keyed("mixtures", KINDS, what="mixtures are a mapping with one of the keys ", code="mixtures_kind"),
]


def in_order(row: dict[str, float], domains: list[str]) -> list[float]:
    """The shares in the order of ``domains``. Raises ``ValueError`` naming a domain that there is not."""
    strange = [name for name in row if name not in domains]
    if strange:
        raise ValueError(f"there is no domain {strange[0]!r}; there are {', '.join(domains)}")
    return [row.get(domain, 0.0) for domain in domains]


def _need_sum(row: Shares, what: str) -> Shares:
    if abs(sum(row.values()) - 1) > 1e-6:
        raise ValueError(f"the shares of {what} add up to {sum(row.values()):g}, not to 1")
    return row


class Objective(BaseModel):
    """What a mixture is judged by: a mean of tasks on the scale 0..1, higher is better (losses count negative)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: Literal["benchmarks", "losses"] | dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        default=None,
        description="benchmarks, losses, or {task: weight}; default: benchmarks where there are any, else losses",
    )
    aggregate: Literal["mean", "group_mean"] = Field(
        default="mean", description="group_mean: the mean of the means of groups of tasks"
    )

    def weights(self, tasks: list[dict[str, Any]]) -> dict[str, float]:
        """Weight of each task that counts, signed (a loss counts negative) and over its full scale. ``ValueError``."""
        named = {task["task"]: task for task in tasks}
        chosen = self._chosen(named)
        groups = [named[name].get("group") or name for name in chosen]
        if self.aggregate == "group_mean":
            chosen = {name: w / groups.count(group) for (name, w), group in zip(chosen.items(), groups, strict=True)}
        total = sum(chosen.values())
        return {
            name: weight / total * (1 if named[name]["higher_is_better"] else -1) / (named[name].get("scale") or 1)
            for name, weight in chosen.items()
        }

    def _chosen(self, named: dict[str, dict[str, Any]]) -> dict[str, float]:
        losses = [name for name in named if name.startswith("loss/")]
        benchmarks = [name for name in named if name not in losses]
        if isinstance(self.tasks, dict):
            missing = [name for name in self.tasks if name not in named]
            if missing:
                raise ValueError(f"there is no task {missing[0]!r}; there are {', '.join(named)}")
            return dict(self.tasks)
        wanted = {"benchmarks": benchmarks, "losses": losses, None: benchmarks or losses}[self.tasks]
        if not wanted:
            raise ValueError(f"the scores hold no {self.tasks or 'tasks'}")
        return dict.fromkeys(wanted, 1.0)
