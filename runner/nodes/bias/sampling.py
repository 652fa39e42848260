"""Which pictures to look at next, and when an attribute has been looked at enough. A pure state machine, no I/O.

All open attributes go on in rounds; a round takes the same number of pictures from each value of an attribute, so that its
pictures form blocks (``sequential``). After each round an attribute is closed when

- ``decided``: e-BH over the whole audit finds one of its values, and no other value *looks* as bad as ``smallest_gap``;
- ``futile``: a gap of ``smallest_gap`` or more is excluded for each of its values;
- ``used_up``: no further block can be formed from its pictures;
- ``not_testable``: none of its values can have a verdict, whatever would be counted.

Pictures come in a random order that depends on the seed and their names alone, not by similarity to the caption: the nearest
ones are the most typical and the easiest, so accuracy drifts along that ranking and an early look would judge other pictures
than a late one. The order is the same in all groups: a picture that stands in several is looked at once and counts in each.

Proved: each e-value has expectation <= 1 under "no gap" when the attribute stops by its own counts, so that e-BH holds FDR <=
alpha whatever the dependence; ``power`` and the limits of phi hold likewise. The pictures are taken for independent draws.
Only simulated (``benchmarks/adaptive.py``, rows ``one pool``): that an attribute also stops by findings elsewhere, where
both share pictures. Where groups are of unequal size, later phases compare with the values that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.data.places import Place
from runner.nodes.bias.grid import GroupName
from runner.nodes.bias.seeds import seed_of
from runner.nodes.bias.sequential import excludes_gap, inverse_e, log_e, phi_sequence
from runner.nodes.significance import Adjustment, adjust_within

FloatArray = NDArray[np.float64]
Stopped = Literal["decided", "futile", "used_up", "not_testable"]
Scope = Literal["audit", "target", "attribute"]
Look = Callable[[str, Place], bool | None]

_GROWTH = 0.1  # a round adds at least this share of what an attribute has been given already


@dataclass(frozen=True)
class Policy:
    """When to stop. ``power``: P(an attribute with a gap of ``smallest_gap`` is not given up as futile), at least.

    ``first``: pictures a value in the first round; later rounds take ``round_size``, or a tenth of what was taken so far.
    """

    smallest_gap: float = 0.3
    power: float = 0.8
    alpha: float = 0.05
    fdr: Adjustment = "bh"
    fdr_scope: Scope = "audit"
    threshold: float = 0.05
    round_size: int = 5
    first: int = 10
    confidence: float = 0.95


class Trial(NamedTuple):
    """How the sampling of a group ended: log e-value against "no gap", anytime-valid limits of phi, why it stopped, and how
    many pictures there were."""

    log_e: float
    phi_low: float
    phi_high: float
    stopped: Stopped
    available: int


def shuffled(places: Iterable[Place], seed: int) -> list[Place]:
    """A random order that follows from ``seed`` and the names, whatever the order given."""
    return sorted(places, key=lambda place: (seed_of(seed, "sample", *place), place))


def block_counts(answers: Sequence[Sequence[bool]]) -> NDArray[np.int64]:
    """Counts of an attribute for ``sequential``: [values, phases, 4], from each value's answers in order.

    Block t holds the t-th answer of every value that has so many. Where values run out, a new phase begins with those left;
    blocks of a single value say nothing and are left out.
    """
    sizes = np.array([len(a) for a in answers])
    ends = [int(s) for s in np.unique(sizes) if s > 0 and (sizes >= s).sum() > 1]
    counts = np.zeros((len(answers), len(ends), 4), np.int64)
    for phase, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        alive = sizes >= end
        right = np.array([sum(a[start:end]) for a in answers]) * alive
        images = (end - start) * alive
        others, of = right.sum() - right, images.sum() - images
        counts[:, phase] = np.stack([right, images - right, others, of - others], 1) * alive[:, None]
    return counts


@dataclass
class _Attribute:
    """The values of one attribute: pictures left (next one first), answers so far, how many a value should have."""

    names: list[GroupName]
    queues: list[list[Place]]
    promising: bool
    answers: list[list[bool]] = field(default_factory=list)
    goal: int = 0
    stopped: Stopped | None = None
    log_e: FloatArray = field(default_factory=lambda: np.empty(0))
    available: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.available = [len(queue) for queue in self.queues]
        self.answers = [[] for _ in self.names]
        self.log_e = np.where(self.tested, 0.0, np.nan)

    @property
    def tested(self) -> NDArray[np.bool_]:
        """Which values have pictures, and others to compare with."""
        filled = np.array([bool(q or a) for q, a in zip(self.queues, self.answers, strict=True)])
        return np.asarray(filled & (filled.sum() > 1))

    @property
    def limit(self) -> int:
        """How many blocks of at least two values its pictures give."""
        sizes = sorted(len(q) + len(a) for q, a in zip(self.queues, self.answers, strict=True))
        return sizes[-2] if len(sizes) > 1 else 0

    def wanted(self) -> list[tuple[int, list[Place]]]:
        """For each value the next pictures that bring it to the goal."""
        short = (self.goal - len(a) for a in self.answers)
        return [(i, self.queues[i][:lack]) for i, lack in enumerate(short) if lack > 0 and self.queues[i]]

    def record(self, look: Look) -> None:
        """Take the answers to the wanted pictures; unreadable ones (None) are passed over."""
        for i, places in self.wanted():
            said = (look(self.names[i].target, place) for place in places)
            self.answers[i] += [right for right in said if right is not None]
            del self.queues[i][: len(places)]

    def gaps(self) -> FloatArray:
        """phi of each value over the pictures so far; NaN without any."""
        acc = np.array([sum(a) / len(a) if a else np.nan for a in self.answers])
        others = np.sum(~np.isnan(acc)) - 1
        return np.asarray(acc - (np.nansum(acc) - acc) / max(others, 1))


class Sampler:
    """Rounds of ``requests`` and ``record`` until nothing is requested; then ``trials`` and ``taken`` say how it ended.

    ``groups``: pictures by group in the order to be looked at; ``hopeless``: groups that can have no verdict.
    """

    def __init__(
        self, groups: Mapping[GroupName, Sequence[Place]], policy: Policy, hopeless: Iterable[GroupName] = ()
    ) -> None:
        self.policy = policy
        lost = set(hopeless)
        scopes: dict[tuple[str, ...], list[GroupName]] = {}
        for name in sorted(groups):
            scopes.setdefault(name.scope, []).append(name)
        self._attributes = [
            _Attribute(names, [list(groups[n]) for n in names], promising=not lost.issuperset(names))
            for names in scopes.values()
        ]
        for attribute in self._attributes:
            self._raise_goal(attribute)

    def requests(self) -> dict[GroupName, list[Place]]:
        """The pictures to look at next, by group; empty when every attribute is closed."""
        return {a.names[i]: places for a in self._open() for i, places in a.wanted()}

    def record(self, look: Look) -> None:
        """Take the answers: ``look(target, place)`` says whether the classifier was right, None for unreadable pictures."""
        for attribute in self._open():
            attribute.record(look)
        ready = [a for a in self._open() if not a.wanted()]
        if not ready:
            return
        excluded = self._weigh(ready)
        found = self._found()
        for attribute, without_gap in zip(ready, excluded, strict=True):
            attribute.stopped = self._reason(attribute, found[id(attribute)], without_gap)
            self._raise_goal(attribute)

    def trials(self) -> dict[GroupName, Trial]:
        """How each group's sampling ended."""
        ended: dict[GroupName, Trial] = {}
        for a in self._attributes:
            low, high = phi_sequence(block_counts(a.answers), self.policy.confidence)
            rows = zip(a.names, a.log_e.tolist(), low.tolist(), high.tolist(), a.available, strict=True)
            for name, log_value, lowest, highest, there in rows:
                ended[name] = Trial(log_value, lowest, highest, a.stopped or "used_up", there)
        return ended

    def answered(self) -> dict[GroupName, list[bool]]:
        """The answers of each group in order."""
        return {name: said for a in self._attributes for name, said in zip(a.names, a.answers, strict=True)}

    def _open(self) -> list[_Attribute]:
        return [a for a in self._attributes if a.stopped is None]

    def _raise_goal(self, attribute: _Attribute) -> None:
        if attribute.stopped is None:
            step = max(self.policy.round_size, int(np.ceil(_GROWTH * attribute.goal)))
            attribute.goal = min(attribute.goal + step if attribute.goal else self.policy.first, attribute.limit)
            if not attribute.wanted():
                attribute.stopped = "used_up"

    def _weigh(self, attributes: Sequence[_Attribute]) -> list[NDArray[np.bool_]]:
        """Bring the e-values of these attributes up to date; which of their values are without a gap of the size sought."""
        counts = _stacked([block_counts(a.answers) for a in attributes])
        ends = np.cumsum([len(a.names) for a in attributes])[:-1]
        for a, own in zip(attributes, np.split(log_e(counts)[:, 0], ends), strict=True):
            a.log_e = np.where(a.tested, own, np.nan)
        return np.split(excludes_gap(counts, self.policy.smallest_gap, self.policy.power), ends)

    def _found(self) -> dict[int, NDArray[np.bool_]]:
        """Which values of each attribute are findings by now."""
        name = {"audit": lambda a: "", "target": lambda a: a.names[0].target, "attribute": id}[self.policy.fdr_scope]
        families = np.array([name(a) for a in self._attributes for _ in a.names])
        p = inverse_e(np.concatenate([a.log_e for a in self._attributes]))
        hits = adjust_within(p, families, self.policy.fdr) <= self.policy.alpha
        ends = np.cumsum([len(a.names) for a in self._attributes])
        parts = np.split(hits, ends[:-1])
        return {id(a): part for a, part in zip(self._attributes, parts, strict=True)}

    def _reason(self, attribute: _Attribute, hits: NDArray[np.bool_], excluded: NDArray[np.bool_]) -> Stopped | None:
        gaps, policy = np.nan_to_num(np.abs(attribute.gaps())), self.policy
        found = hits & (gaps > policy.threshold)
        if not attribute.promising:
            return "not_testable"
        if found.any() and not np.any(~found & (gaps >= policy.smallest_gap)):
            return "decided"
        return "futile" if np.all(excluded | ~attribute.tested) else None


def _stacked(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Counts of several attributes [values, phases, 4] as one array, with empty phases where one has fewer."""
    phases = max(c.shape[1] for c in counts)
    return np.concatenate([np.pad(c, ((0, 0), (0, phases - c.shape[1]), (0, 0))) for c in counts])
