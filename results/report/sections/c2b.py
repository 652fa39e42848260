"""The bias audit: what was found in plain words, then everything that it stands on."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.report import charts
from results.report.evidence import evidence_parts
from results.report.page import Part, Request, Section
from results.report.words import unpacked

if TYPE_CHECKING:
    from results.store import Reader

Row = dict[str, Any]
Key = tuple[str, str, str, str | None]


GROUPS = """
SELECT * EXCLUDE (run), (SELECT min(a.chi2_p) FROM c2b_attribute_test a
    WHERE a.run_id = v.run_id AND a.variant = v.variant AND a.step = v.step AND a.target = v.target
          AND a.attribute = v.attribute AND a.value_source IS NOT DISTINCT FROM v.value_source) AS chi2_p
FROM verdicts v WHERE run_id = $run
ORDER BY variant, step, target, attribute, value_source, phi NULLS LAST, value
"""
EXAMPLES = """
SELECT variant, step, target, attribute, value, value_source, correct, pred, uri, thumbnail
FROM c2b_example WHERE run_id = $run
QUALIFY row_number() OVER (PARTITION BY variant, step, target, attribute, value, value_source, correct
                           ORDER BY similarity DESC NULLS LAST, uri) <= $most
ORDER BY similarity DESC NULLS LAST, uri
"""
IMAGES = """
SELECT variant, step, count(DISTINCT (source_id, uri)) AS images FROM c2b_prediction WHERE run_id = $run GROUP BY ALL
"""
PLAIN = ("c2b_gate", "c2b_pooled_test", "c2b_stability", "corpus_source")
VIEWS = ("dropped_proposals", "retrieval_quality")
FINDINGS = ("disfavoured", "favoured")
JUDGED = (*FINDINGS, "no_evidence")
EVIDENCE = ("c2b_verifier", "c2b_precision", "c2b_separability", "c2b_bin", "c2b_binding")


TABLES = frozenset(
    [
        "c2b_attribute",
        "c2b_caption",
        "c2b_retrieval",
        "c2b_retrieval_count",
        "c2b_prediction",
        "c2b_member",
        "c2b_group",
        "c2b_attribute_test",
        "c2b_pooled_test",
        "c2b_gate",
        "c2b_example",
        "c2b_stability",
        "c2b_truth",
        "c2b_measurement",
        "c2b_measured_member",
        "c2b_target_check",
        "c2b_value_check",
        "corpus_source",
    ]
) | set(EVIDENCE)


@dataclass(frozen=True)
class Audit:
    """The rows of one assessment: one step of one variant. ``label`` tells it from others of the run."""

    variant: str
    step: str
    label: str
    groups: list[Row]
    examples: dict[Key, list[Row]]
    images: int | None
    rows: dict[str, list[Row]]


def collect(read: Reader, request: Request) -> list[Audit] | None:
    """The audits of a run, or None where it holds none."""
    of_run = {"run": request.run_id}
    groups = [{**row, "circumstance": circumstance(row)} for row in read(GROUPS, of_run).to_pylist()]
    proposals = read("SELECT 1 FROM c2b_attribute WHERE run_id = $run LIMIT 1", of_run).num_rows
    if not groups and not proposals:
        return None
    examples = read(EXAMPLES, {**of_run, "most": request.examples}).to_pylist()
    images = {(r["variant"], r["step"]): r["images"] for r in read(IMAGES, of_run).to_pylist()}
    others = {name: read(_all_of(name), of_run).to_pylist() for name in (*PLAIN, *EVIDENCE, *VIEWS)}
    places = list(dict.fromkeys((g["variant"], g["step"]) for g in groups)) or [("", "")]
    return [_audit(place, len(places) > 1, groups, examples, images, others) for place in places]


def _all_of(name: str) -> str:
    return f"SELECT * FROM {name} WHERE run_id = $run ORDER BY ALL"  # noqa: S608 - names from this file


def _audit(
    place: tuple[str, str],
    several: bool,
    groups: list[Row],
    examples: list[Row],
    images: dict[tuple[str, str], int],
    others: dict[str, list[Row]],
) -> Audit:
    variant, step = place
    pictures: dict[Key, list[Row]] = defaultdict(list)
    for row in examples:
        if (row["variant"], row["step"]) == place:
            pictures[key_of(row)].append({**row, "data": base64.b64encode(row["thumbnail"]).decode("ascii")})
    rows = {name: [r for r in found if r["variant"] == variant] for name, found in others.items()}
    for name in ("c2b_gate", "c2b_pooled_test"):
        rows[name] = [r for r in rows[name] if r["step"] == step]
    label = " · ".join(part for part in (variant, step) if part) if several else ""
    own = [g for g in groups if (g["variant"], g["step"]) == place]
    return Audit(variant, step, label, own, dict(pictures), images.get(place), rows)


def key_of(row: Row) -> Key:
    """(target, attribute, value, value_source)."""
    return row["target"], row["attribute"], row["value"], row["value_source"]


def circumstance(row: Row) -> str:
    """The attribute, and that it was measured where it was: both kinds of groups may stand side by side."""
    return f"{row['attribute']} (measured)" if row["value_source"] == "measured" else str(row["attribute"])


def parts(audits: Sequence[Audit]) -> list[Part]:
    """One set of headings an audit; an overview first where there are several."""
    found = [_overview(audits)] if len(audits) > 1 else []
    for number, audit in enumerate(audits):
        own = [part for part in _parts_of(audit) if part is not None]
        suffix, title = (f"-{number}", f" ({audit.label})") if audit.label else ("", "")
        found += [Part(p.anchor + suffix, p.title + title, p.template, {"audit": audit, **p.variables}) for p in own]
    return found


def _overview(audits: Sequence[Audit]) -> Part:
    rows = [
        (audit, {v: [g for g in audit.groups if g["verdict"] == v] for v in (*JUDGED, "held_back")}) for audit in audits
    ]
    return Part("audits", "The audits of this run", "c2b_overview.html.jinja", {"rows": rows})


def _parts_of(audit: Audit) -> Iterable[Part | None]:
    yield _verdicts(audit)
    yield _plots(audit)
    yield _examples(audit)
    yield _held_back(audit)
    yield from evidence_parts(audit.rows)
    yield _plain(audit, "gate", "Sanity check on neutral pictures", "c2b_gate")
    yield _truth(audit)
    yield _plain(audit, "stability", "Would it come out the same again?", "c2b_stability")
    yield _plain(audit, "dropped", "Proposals that were dropped", "dropped_proposals")
    yield _retrieval(audit)
    variables = {"checks": {g["target_check"] for g in audit.groups}, "adaptive": sampled(audit.groups)}
    yield Part("method", "How to read this", "c2b_method.html.jinja", variables)


def sampled(groups: Iterable[Row]) -> dict[str, int] | None:
    """Of an audit that took its pictures by rounds, how many it took of how many; None where every picture was run."""
    own = [g for g in groups if g["stopped"] is not None]
    if not own:
        return None
    return {"taken": sum(g["n"] for g in own), "available": sum(g["available"] or 0 for g in own)}


def _verdicts(audit: Audit) -> Part | None:
    if not audit.groups:
        return Part("verdicts", "What was found", "c2b_nothing.html.jinja")
    findings = [g for g in audit.groups if g["verdict"] in FINDINGS]
    findings.sort(key=lambda g: (g["verdict"] == "favoured", -abs(g["phi"] or 0), key_of(g)))
    quiet = [g for g in audit.groups if g["verdict"] == "no_evidence"]
    gaps = [g["min_detectable_gap"] for g in quiet if g["min_detectable_gap"] is not None]
    cards = [
        {"group": g, "others": other_values(g, audit.groups), "examples": _right_and_wrong(audit, g)} for g in findings
    ]
    gate = next((r for r in audit.rows["c2b_gate"] if r["target"] is None), None)
    return Part(
        "verdicts",
        "What was found",
        "c2b_verdicts.html.jinja",
        {
            "cards": cards,
            "quiet": _by_attribute(quiet),
            "quiet_count": len(quiet),
            "gaps": (min(gaps), max(gaps)) if gaps else None,
            "judged": sum(g["verdict"] in JUDGED for g in audit.groups),
            "unjudged": sum(g["verdict"] not in JUDGED for g in audit.groups),
            "pooled": [r for r in audit.rows["c2b_pooled_test"] if r["q_bh"] is not None and r["q_bh"] <= 0.05],
            "gate_failed": gate is not None and gate["passed"] is False,
            "gate": gate,
            "adaptive": sampled(audit.groups),
        },
    )


def other_values(group: Row, groups: Iterable[Row]) -> list[str]:
    """The values that a group is compared with: those of its attribute that have images."""
    same = [
        g for g in groups if (g["target"], g["circumstance"]) == (group["target"], group["circumstance"]) and g["n"]
    ]
    return [g["value"] for g in same if g["value"] != group["value"]]


def _by_attribute(groups: Iterable[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for group in groups:
        found[group["target"], group["circumstance"]].append(group)
    return list(found.items())


def _right_and_wrong(audit: Audit, group: Row) -> dict[str, list[Row]]:
    pictures = audit.examples.get(key_of(group), [])
    return {"wrong": [p for p in pictures if not p["correct"]], "right": [p for p in pictures if p["correct"]]}


def _plots(audit: Audit) -> Part | None:
    neutral = {r["target"]: r["acc"] for r in audit.rows["c2b_gate"]}
    targets = []
    for target in dict.fromkeys(g["target"] for g in audit.groups):
        groups = [g for g in audit.groups if g["target"] == target]
        drawn = {"accuracy": charts.accuracy_chart(groups, neutral.get(target)), "score": charts.score_chart(groups)}
        targets.append({"target": target, "groups": groups, "neutral": neutral.get(target), **drawn})
    variables = {"targets": targets, "adaptive": sampled(audit.groups)}
    title = "Accuracy and uncertainty, class by class"
    return Part("plots", title, "c2b_plots.html.jinja", variables) if targets else None


def _examples(audit: Audit) -> Part | None:
    shown = [{"group": g, "examples": _right_and_wrong(audit, g)} for g in audit.groups if key_of(g) in audit.examples]
    by_attribute: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for entry in shown:
        by_attribute[entry["group"]["target"], entry["group"]["circumstance"]].append(entry)
    if not shown:
        return None
    return Part("examples", "Example pictures", "c2b_examples.html.jinja", {"attributes": list(by_attribute.items())})


def _held_back(audit: Audit) -> Part | None:
    rows = [g for g in audit.groups if g["verdict"] not in JUDGED]
    rows.sort(key=lambda g: (g["verdict"] != "held_back", g["verdict"], key_of(g)))
    return Part("held-back", "Not judged, and why", "c2b_held_back.html.jinja", {"rows": rows}) if rows else None


def _truth(audit: Audit) -> Part | None:
    rows = [g for g in audit.groups if g["agreement"] is not None]
    if not rows:
        return None
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[row["agreement"]] += 1
    findings = [r for r in rows if r["verdict"] in FINDINGS]
    rows.sort(key=lambda g: (g["verdict"] not in FINDINGS, key_of(g)))
    confirmed = sum(r["agreement"] == "agrees" for r in findings)
    variables = {"rows": rows, "counts": counts, "findings": len(findings), "confirmed": confirmed}
    return Part("truth", "Against hidden labels", "c2b_truth.html.jinja", variables)


def _plain(audit: Audit, anchor: str, title: str, name: str) -> Part | None:
    rows = audit.rows[name]
    return Part(anchor, title, f"c2b_{anchor}.html.jinja", {"rows": rows}) if rows else None


def _retrieval(audit: Audit) -> Part | None:
    rows = [{**r, "rejected": _counts(r["rejected"])} for r in audit.rows["retrieval_quality"]]
    sources = [{**r, "problems": _counts(r["problems"])} for r in audit.rows["corpus_source"]]
    if not rows and not sources:
        return None
    reasons = list(dict.fromkeys(reason for row in rows for reason in row["rejected"]))
    variables = {"rows": rows, "reasons": reasons, "sources": sources}
    return Part("retrieval", "How the pictures were found", "c2b_retrieval.html.jinja", variables)


def _counts(text: str | None) -> dict[str, Any]:
    """A JSON object of counts without its zeros; {} for anything else."""
    content = unpacked(text)
    return {str(k): v for k, v in content.items() if v} if isinstance(content, dict) else {}


SECTIONS = (Section("c2b", TABLES, collect, parts),)
