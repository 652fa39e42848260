"""How a spec names a search over mixtures: ``{gp: 4, batch: 2}``. Light: imported to validate a spec."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag

from runner.keyed import keyed

if TYPE_CHECKING:
    from runner.nodes.merging.mixtures import Weights
    from runner.nodes.merging.search import Evaluate, Round

Rounds = Annotated[int, Field(ge=1, le=1000, description="rounds after the first at most")]


class Strategy(BaseModel):
    """A way to look for the best mixture. ``model``: what the rows of its rounds call it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: ClassVar[str]
    model: ClassVar[str]

    @abstractmethod
    def run(self, evaluate: Evaluate, start: Weights, all_items: int, seed: int) -> list[Round]:
        """Its rounds from the mixtures ``start`` [n, K]. ``all_items``: of the largest task. Raises ``ValueError`` without scores."""


class Exhaustive(Strategy):
    """All mixtures of the start and no others, as 2602.04937 does."""

    key: ClassVar[str] = "exhaustive"
    model: ClassVar[str] = "exhaustive"
    exhaustive: Literal[True]

    def run(self, evaluate: Evaluate, start: Weights, all_items: int, seed: int) -> list[Round]:
        """See ``search.exhaustive``."""
        from runner.nodes.merging.search import exhaustive

        return exhaustive(evaluate, start)


class Quadratic(Strategy):
    """Fit Scheffe's quadratic, evaluate its maximum, fit again."""

    key: ClassVar[str] = "quadratic"
    model: ClassVar[str] = "scheffe2"
    quadratic: Rounds

    def run(self, evaluate: Evaluate, start: Weights, all_items: int, seed: int) -> list[Round]:
        """See ``search.by_quadratic``."""
        from runner.nodes.merging.search import by_quadratic

        return by_quadratic(evaluate, start, self.quadratic)


class GaussianProcess(Strategy):
    """Bayesian optimisation with the noise that the items' scores show."""

    key: ClassVar[str] = "gp"
    model: ClassVar[str] = "gp"
    gp: Rounds
    batch: Annotated[int, Field(ge=1, le=64, description="mixtures a round")] = 4
    acquisition: Literal["ei", "ucb"] = "ei"

    def run(self, evaluate: Evaluate, start: Weights, all_items: int, seed: int) -> list[Round]:
        """See ``search.by_gaussian_process``."""
        from runner.nodes.merging.search import by_gaussian_process

        return by_gaussian_process(evaluate, start, self.gp, self.batch, self.acquisition, seed)


class Cmaes(Strategy):
    """CMA-ES over the logits of a softmax, from the mean of the start's mixtures."""

    key: ClassVar[str] = "cmaes"
    model: ClassVar[str] = "cmaes"
    cmaes: Annotated[int, Field(ge=4, le=100_000, description="mixtures in all")]
    sigma: Annotated[float, Field(gt=0, le=10, description="first step, in logits")] = 1.0

    def run(self, evaluate: Evaluate, start: Weights, all_items: int, seed: int) -> list[Round]:
        """See ``search.by_cmaes``."""
        from runner.nodes.merging.search import by_cmaes

        return by_cmaes(evaluate, start.mean(axis=0), self.cmaes, seed, self.sigma)


class Halving(Strategy):
    """All mixtures of the start on a few items, the better half on twice as many, and so on."""

    key: ClassVar[str] = "halving"
    model: ClassVar[str] = "halving"
    halving: Annotated[int, Field(ge=1, description="items of each task in the first round")]

    def run(self, evaluate: Evaluate, start: Weights, all_items: int, seed: int) -> list[Round]:
        """See ``search.by_halving``."""
        from runner.nodes.merging.search import by_halving

        return by_halving(evaluate, start, self.halving, all_items)


class Local(Strategy):
    """From the best mixture of the start, move a share between every pair of domains while that helps."""

    key: ClassVar[str] = "local"
    model: ClassVar[str] = "local"
    local: Rounds
    delta: Annotated[float, Field(gt=0, le=1, description="share that is moved")] = 0.1

    def run(self, evaluate: Evaluate, start: Weights, all_items: int, seed: int) -> list[Round]:
        """See ``search.by_local_moves``."""
        from runner.nodes.merging.search import best, by_local_moves, exhaustive

        first = exhaustive(evaluate, start)
        return first + by_local_moves(evaluate, best(first)[0], self.delta, self.local)[1:]


KINDS: dict[str, type[Strategy]] = {
    kind.key: kind for kind in (Exhaustive, Quadratic, GaussianProcess, Cmaes, Halving, Local)
}
StrategySpec = Annotated[
    Annotated[Exhaustive, Tag("strategy exhaustive")]
    | Annotated[Quadratic, Tag("strategy quadratic")]
    | Annotated[GaussianProcess, Tag("strategy gp")]
    | Annotated[Cmaes, Tag("strategy cmaes")]
    | Annotated[Halving, Tag("strategy halving")]
    | Annotated[Local, Tag("strategy local")],
    keyed("strategy", KINDS, what="a search is a mapping with one of the keys ", code="strategy_kind", one=True),
]
