"""Records of a mixture: how many of each domain, and which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from runner.errors import DataError
from runner.nodes.apportioning import quotas


def quota_rows(
    domains: Sequence[str],
    weights: Sequence[float],
    of_row: Mapping[str, Sequence[int]],
    n: int,
    seed: int,
    *,
    repeat: bool,
) -> tuple[list[int], dict[str, int]]:
    """Row numbers of ``n`` records in mixed order and the number of each domain, by largest remainder.

    ``of_row``: rows by domain. A domain with fewer records than its quota is refused (``DataError``), or with ``repeat`` gone
    through again from the start.
    """
    counts = {name: int(count) for name, count in zip(domains, quotas(weights, n), strict=True)}
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for name, count in counts.items():
        rows = np.asarray(of_row.get(name, ()), np.int64)
        if count and (not len(rows) or (count > len(rows) and not repeat)):
            raise DataError(
                f"domain {name!r} has {len(rows)} records, the mixture wants {count}",
                hint="ask for fewer records, or say repeat: true" if len(rows) else "the data lacks this domain",
            )
        chosen += [int(row) for _ in range(-(-count // max(len(rows), 1))) for row in generator.permutation(rows)][
            :count
        ]
    return [chosen[i] for i in generator.permutation(len(chosen))], counts
