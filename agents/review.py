"""A person's answer to the proposals: approve them, or hand back the attributes to test.

The question is ``{"kind": "c2b.review", "task", "attributes": [rows], "problem"}``. The answer is ``"approve"`` (or true),
or ``{"attributes": [{"target", "attribute", "values": [...]}, ...]}``, which replaces what was kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.brief import Brief
from agents.proposals import Judged, Proposal, ProposalRules, judge
from runner.naming import normalised

Row = dict[str, Any]

REVIEW = "c2b.review"
_Name = Annotated[str, Field(min_length=1, max_length=60)]


class ApprovedAttribute(BaseModel):
    """One attribute that a person wants tested for one target."""

    model_config = ConfigDict(extra="forbid")

    target: str
    attribute: _Name
    values: list[_Name] = Field(min_length=2)


class Approval(BaseModel):
    """The whole answer."""

    model_config = ConfigDict(extra="forbid")

    attributes: list[ApprovedAttribute] = Field(min_length=1)


def approved_rows(answer: Any, rows: list[Row], brief: Brief, rules_of: Callable[[str], ProposalRules]) -> list[Row]:
    """Rows after the person's answer. Raises ``ValueError`` saying what is wrong with it.

    What was kept and does not come back is dropped as "removed in review"; what is new or changed has source ``review``.
    A person's attributes meet the same rules as the model's, but there may be any number of them. Resamples, which only
    measure stability, stay as they are.
    """
    if answer is True or (isinstance(answer, str) and answer.strip().lower() in {"approve", "approved", "yes"}):
        return rows
    try:
        approval = Approval.model_validate(answer)
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:5])
        raise ValueError(f"the answer is neither 'approve' nor a list of attributes ({places})") from None
    chosen = _chosen(approval, brief, rules_of)
    first = [r for r in rows if r["resample"] == 0]
    return _merged(first, chosen) + [r for r in rows if r["resample"] != 0]


def _chosen(approval: Approval, brief: Brief, rules_of: Callable[[str], ProposalRules]) -> dict[str, list[Judged]]:
    chosen: dict[str, list[Judged]] = {}
    for target in dict.fromkeys(a.target for a in approval.attributes):
        if target not in brief.targets:
            raise ValueError(f"{target!r} is not an audited class; those are {', '.join(brief.targets)}")
        proposals = [
            Proposal(a.attribute, tuple(a.values), "review") for a in approval.attributes if a.target == target
        ]
        chosen[target] = judge(proposals, rules_of(target))
        unfit = next((j for j in chosen[target] if not j.kept), None)
        if unfit:
            raise ValueError(f"{target} / {unfit.proposal.attribute}: {unfit.reason}")
    return chosen


def _merged(first: list[Row], chosen: dict[str, list[Judged]]) -> list[Row]:
    wanted = {(t, normalised(j.proposal.attribute)): j.proposal for t, found in chosen.items() for j in found}
    rows: list[Row] = []
    for row in first:
        proposal = wanted.get((row["target"], row["attribute_norm"]))
        if row["status"] == "kept" and proposal and list(proposal.values) == row["bias_values"]:
            rows.append(row)
            del wanted[row["target"], row["attribute_norm"]]
        elif row["status"] == "kept":
            rows.append(row | {"status": "dropped", "drop_reason": "removed in review"})
        else:
            rows.append(row)
    return rows + [_review_row(target, norm, proposal) for (target, norm), proposal in wanted.items()]


def _review_row(target: str, norm: str, proposal: Proposal) -> Row:
    return {
        "resample": 0, "target": target, "attribute": proposal.attribute, "attribute_norm": norm,
        "bias_values": list(proposal.values), "source": "review", "status": "kept", "drop_reason": None,
    }  # fmt: skip
