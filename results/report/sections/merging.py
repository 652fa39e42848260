"""Mixtures of training data by merged stand-ins: the ranking, how far it can be trusted, experts, surrogates, costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report import charts, charts_lvlm
from results.report.page import Part, Request, Section
from results.report.sections.vqa import grouped

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]

TABLES = frozenset(
    ["dmo_expert", "dmo_geometry", "dmo_mixture", "dmo_merge", "dmo_score", "dmo_objective", "dmo_validity", "dmo_surrogate",
     "dmo_projection", "dmo_cost"]
)  # fmt: skip
KEYS = ("variant", "step")
MOST_LINES = 40
MOST_EXPERTS = 24
"""Models up to which their cosines are drawn."""
KINDS = {"proxy": "merged stand-ins", "true": "really trained models", "regression": "predictions by regression"}
REGRESSIONS = {"regmix_linear": "RegMix, a line", "regmix_boosting": "RegMix, trees", "mixing_law": "mixing laws"}
SURROGATES = {
    "scheffe2": "a quadratic over the shares (Scheffé's)",
    "gp": "a Gaussian process",
    "regmix": "a regression over training runs",
    "mixing_law": "an exponential mixing law",
    "cmaes": "an evolution strategy",
    "halving": "successive halving",
    "local": "a local search",
    "doremi": "weights from excess losses",
}

RANKING = "SELECT * FROM mixture_ranking WHERE run_id = $run ORDER BY variant, step, rank NULLS LAST, mixture_id"
VALIDITY = "SELECT * FROM proxy_validity WHERE run_id = $run ORDER BY variant, step, kind, task <> 'objective', task"
EXPERTS = "SELECT * FROM dmo_expert WHERE run_id = $run ORDER BY variant, step, domain IS NULL, name"
GEOMETRY = "SELECT * FROM expert_geometry WHERE run_id = $run ORDER BY variant, step, domain_i, domain_j"
PROJECTIONS = "SELECT * FROM dmo_projection WHERE run_id = $run ORDER BY variant, step, mixture_id, domain"
FITS = "SELECT * FROM dmo_surrogate WHERE run_id = $run ORDER BY variant, step, task <> 'objective', task, model, round"
# The order of a fit's shares is that of the mixtures of its run, where all of them have one order.
DOMAINS = """
SELECT variant, any_value(domains) AS domains FROM dmo_mixture WHERE run_id = $run GROUP BY variant HAVING count(DISTINCT domains) = 1
"""
SCORES = """
SELECT variant, step, kind, mixture_id, task, key, value, n, status FROM dmo_score WHERE run_id = $run
ORDER BY variant, step, kind, mixture_id, task LIMIT 2000
"""
COSTS = """
WITH trained AS (
    SELECT s.variant, s.step, CASE WHEN e.domain IS NULL THEN 'training on a mixture' ELSE 'training of an expert' END AS what,
           s.model, sum(s.seconds) AS seconds
    FROM recovery_step s
    JOIN dmo_expert e ON (e.run_id, e.variant, e.step, e.name) = (s.run_id, s.variant, s.step, s.model)
    WHERE s.run_id = $run GROUP BY ALL
)
SELECT variant, step, what, NULL AS how, count(*) AS n, sum(seconds) AS seconds, NULL::BIGINT AS bytes FROM trained GROUP BY ALL
UNION ALL
SELECT variant, step, CASE WHEN method = 'trained' THEN 'loading of a trained model' ELSE 'merge' END, method || ', ' || replace(execution, '_', ' '),
       count(*), sum(seconds), sum(bytes_written)::BIGINT
FROM dmo_merge WHERE run_id = $run GROUP BY ALL
UNION ALL
SELECT variant, step, 'evaluation of a mixture', kind, count(DISTINCT mixture_id), sum(seconds), NULL FROM dmo_score
WHERE run_id = $run AND kind NOT LIKE 'regression%' GROUP BY ALL
ORDER BY ALL
"""

ACCOUNTS = """
SELECT p.variant, p.step, p.training_runs AS experts, d.training_runs AS mixtures, p.training_seconds AS expert_seconds,
       p.merge_seconds + p.evaluation_seconds AS proxy_seconds, d.training_seconds AS direct_seconds, d.training_estimated AS estimated,
       p.saved_seconds AS saved
FROM dmo_cost p JOIN dmo_cost d USING (run_id, variant, step)
WHERE p.run_id = $run AND p.side = 'proxy' AND d.side = 'direct' ORDER BY ALL
"""


@dataclass(frozen=True)
class Found:
    """All rows of a run's merged models and mixtures."""

    ranking: list[Row]
    validity: list[Row]
    experts: list[Row]
    geometry: list[Row]
    projections: list[Row]
    fits: list[Row]
    domains: list[Row]
    scores: list[Row]
    costs: list[Row]
    accounts: list[Row]


def collect(read: Reader, request: Request) -> Found | None:
    """The rows, or None where nothing was merged and no mixture scored."""
    of_run: dict[str, Any] = {"run": request.run_id}
    statements = (RANKING, VALIDITY, EXPERTS, GEOMETRY, PROJECTIONS, FITS, DOMAINS, SCORES, COSTS, ACCOUNTS)
    found = Found(*(read(sql, of_run).to_pylist() for sql in statements))
    return found if any(vars(found).values()) else None


def parts(found: Found) -> list[Part]:
    """The ranking, its validity, surrogates, scores by task, experts, costs."""
    return list(_parts(found))


def _parts(found: Found) -> Iterator[Part]:
    if found.ranking:
        boards = [{**place, **ranked(rows)} for place, rows in grouped(found.ranking, KEYS)]
        yield Part("mixtures", "Which mixture of training data is best", "merging_ranking.html.jinja", {"boards": boards, "most": MOST_LINES, "called": called})  # fmt: skip
    if found.validity:
        yield Part("stand-ins", "Can the stand-ins be believed?", "merging_validity.html.jinja", {"boards": list(_agreement(found)), "called": called})  # fmt: skip
    if found.fits:
        domains = {r["variant"]: r["domains"] for r in found.domains}
        rows = [{**r, "shares": _shares(r["argmax"], domains.get(r["variant"]))} for r in found.fits]
        yield Part("surrogates", "What fits over the mixtures propose", "merging_surrogates.html.jinja", {"rows": rows, "what": SURROGATES})  # fmt: skip
    if found.scores:
        boards = [{**place, **by_task(rows)} for place, rows in grouped(found.scores, (*KEYS, "kind"))]
        yield Part("mixture-scores", "Scores of the mixtures by task", "merging_scores.html.jinja", {"boards": boards, "called": called})  # fmt: skip
    if found.experts or found.geometry or found.projections:
        yield Part(
            "experts",
            "The experts",
            "merging_experts.html.jinja",
            {"boards": list(_experts(found)), "projections": found.projections},
        )
    if found.costs or found.accounts:
        variables = {"rows": found.costs, "called": called, "account": counted(found), "told": told(found.accounts)}
        yield Part("merging-costs", "What it cost", "merging_costs.html.jinja", variables)


def called(kind: str | None) -> str | None:
    """A kind of scores in words, such as ``regression/mixing_law`` or ``proxy/2``; another text as it is."""
    base, _, rest = (kind or "").partition("/")
    if base not in KINDS:
        return kind
    more = [REGRESSIONS.get(part, f"no. {part}" if part.isdecimal() else part) for part in rest.split("/") if part]
    return KINDS[base] + (f" ({', '.join(more)})" if more else "")


def ranked(rows: list[Row]) -> Row:
    """The best mixture, those that cannot be told apart from it, and the picture of the first ``MOST_LINES``."""
    placed = [r for r in rows if r["rank"] is not None]
    best = next((r for r in rows if r["best"]), None)
    domains: list[str] = next((r["domains"] for r in rows if r["domains"]), [])
    known = best is not None and best["gap_low"] is not None
    lines = [
        {"name": r["mixture_id"], "weights": r["weights"], "value": r["value"], "low": r["ci_low"], "high": r["ci_high"],
         "kind": "best" if r["best"] else "same" if r["indistinguishable"] else "other"}
        for r in placed[:MOST_LINES] if r["value"] is not None
    ]  # fmt: skip
    return {
        "rows": rows, "best": best, "domains": domains, "intervals": known, "placed": len(placed),
        "same": [r for r in placed if r["indistinguishable"] and not r["best"] and r["rank"] != 1],
        "shares": _shares(best["weights"], domains) if best else [],
        "chart": charts_lvlm.ranking_chart(lines, domains) if len(lines) > 1 else None,
        "first": placed[0] if placed else None, "truth": any(r["true_rank"] is not None for r in rows),
        "predicted": sorted({p["kind"] for r in rows for p in r["predicted"] or ()}),
    }  # fmt: skip


def _shares(weights: Sequence[float] | None, domains: Sequence[str] | None) -> list[tuple[str, float]]:
    """Domain and share, largest first; numbers where the names are not known."""
    names = domains if domains and len(domains) == len(weights or ()) else [f"domain {i + 1}" for i in range(len(weights or ()))]  # fmt: skip
    return sorted(zip(names, weights or (), strict=True), key=lambda pair: -pair[1])


def _agreement(found: Found) -> Iterator[Row]:
    """Validity by ranking, with the picture of stand-ins against trained models."""
    for place, rows in grouped(found.validity, KEYS):
        own = [r for r in found.ranking if all(r[k] == v for k, v in place.items())]
        points = [
            {"name": r["mixture_id"], "proxy": r["value"], "true": r["true_value"], "low": r["ci_low"], "high": r["ci_high"],
             "true_low": r["true_low"], "true_high": r["true_high"], "best": r["best"]}
            for r in own if r["value"] is not None and r["true_value"] is not None
        ]  # fmt: skip
        chart = charts_lvlm.scatter_chart(points) if len(points) > 1 else None
        yield {
            **place, "rows": rows, "whole": [r for r in rows if r["task"] == "objective"], "chart": chart,
            "outside": any(not r["best"] and r["true_rank"] == 1 for r in own),
            "untrained": any(r["best"] and r["true_rank"] is None for r in own),
        }  # fmt: skip


def by_task(rows: list[Row]) -> Row:
    """A line a mixture, a column a task."""
    lines: dict[str, dict[tuple[str, str], Row]] = {}
    for r in rows:
        lines.setdefault(r["mixture_id"], {})[r["task"], r["key"]] = r
    return {"tasks": sorted({(r["task"], r["key"]) for r in rows}), "lines": lines}


def _experts(found: Found) -> Iterator[Row]:
    """Experts of a step with the cosines of their changes; the mirrored half is filled in for the picture."""
    pairs = {tuple(place.values()): rows for place, rows in grouped(found.geometry, KEYS)}
    for place, own in grouped(found.experts, KEYS):
        cosines = pairs.get(tuple(place.values()), [])
        names = [r["name"] for r in own]
        known = {(r["domain_i"], r["domain_j"]): r["cosine"] for r in cosines}
        cells = [{"row": a, "column": b, "value": 1.0 if a == b else known.get((a, b), known.get((b, a)))} for a in names for b in names]  # fmt: skip
        few = 1 < len(names) <= MOST_EXPERTS and bool(cosines)
        yield {**place, "rows": own, "pairs": cosines, "chart": charts.heat_map(cells, reach=(0.0, 1.0), signed=True) if few else None}  # fmt: skip


def told(accounts: list[Row]) -> list[Row]:
    """Accounts whose seconds are known."""
    return [a for a in accounts if a["expert_seconds"] is not None and a["direct_seconds"] is not None]


def counted(found: Found) -> list[Row]:
    """Sentences over what this run's tables hold, for variants whose rankings tell nothing of their costs."""
    known = {a["variant"] for a in told(found.accounts)}
    return [a for a in account(found.costs) if a["variant"] not in known]


def account(costs: list[Row]) -> Iterator[Row]:
    """By variant: experts, merges and evaluations against the training runs that as many mixtures would have taken."""
    for place, rows in grouped(costs, ("variant",)):
        kinds = {what: [r for r in rows if r["what"] == what] for what in {r["what"] for r in rows}}
        scored = [r for r in kinds.get("evaluation of a mixture", []) if r["how"] == "proxy"]
        if scored and "training of an expert" in kinds:
            trained = kinds.get("training on a mixture", [])
            yield {
                **place, "experts": sum(r["n"] for r in kinds["training of an expert"]), "merges": sum(r["n"] for r in scored),
                "expert_seconds": sum(r["seconds"] or 0 for r in kinds["training of an expert"]),
                "proxy_seconds": sum(r["seconds"] or 0 for r in [*scored, *kinds.get("merge", [])]),
                "runs": sum(r["n"] for r in trained), "run_seconds": sum(r["seconds"] or 0 for r in trained),
            }  # fmt: skip


SECTIONS = (Section("merging", TABLES, collect, parts),)
