"""Plots of episodes and of training to ask, as inline SVG; drawn as those of ``results.report.charts``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from results.report.charts import LABELS, WIDTH, distinct, svg

Rows = Sequence[Mapping[str, Any]]

KINDS = {
    "asked": ("asks for what helps", "var(--link)"),
    "invalid": ("asks for what does not help", "var(--held)"),
    "abstained": ("abstains", "var(--faint)"),
    "correct": ("right category", "var(--good)"),
    "wrong": ("wrong category", "var(--bad)"),
    "unreadable": ("unreadable", "var(--line)"),
}
"""What a turn may be: its words and its colour, in the order in which they are stacked."""
LEARNT = {**KINDS, "wrong": ("wrong, or asks for what does not help", "var(--bad)")}
"""The same while training, where both are one."""
OVER_UNDER = {
    "over_asking": ("asks, though it would be right", "var(--link)"),
    "under_asking": ("does not ask, though it would be wrong", "var(--bad)"),
}
PANEL = 74


def score_chart(rows: Rows) -> Markup:
    """One line a model: ``name``, ``value`` with ``low`` and ``high``, and ``chance`` (a bar across the line; may be None); in percent."""
    import altair as alt

    names = distinct([r["name"] for r in rows], 40)
    values = [{**{k: r[k] for k in ("value", "low", "high", "chance")}, "name": names[r["name"]], "text": f"{r['value']:.1f}"} for r in rows]  # fmt: skip
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("name:N", sort=None, axis=alt.Axis(title=None, labelLimit=2 * LABELS, ticks=False, domain=False))
    )
    axis, scale = alt.Axis(title=None, tickCount=5), alt.Scale(domain=[0, 100], nice=False)
    layers = [
        base.transform_filter("datum.chance != null").mark_tick(thickness=2, size=18, color="var(--ink)").encode(x=alt.X("chance:Q", axis=axis, scale=scale)),
        base.mark_rule(strokeWidth=2.5, strokeCap="round", opacity=0.55, color="var(--link)").encode(x=alt.X("low:Q", axis=axis, scale=scale), x2="high:Q"),
        base.mark_point(filled=True, size=75, opacity=1, color="var(--link)").encode(x=alt.X("value:Q", axis=axis, scale=scale)),
        base.mark_text(align="left", dx=8, fontSize=11).encode(x=alt.value(WIDTH), text="text:N", color=alt.value("var(--muted)")),
    ]  # fmt: skip
    return svg(alt.layer(*layers).properties(width=WIDTH, height=alt.Step(24)))


def turn_chart(rows: Rows) -> Markup:
    """A panel a scenario, a bar a turn: the share of all episodes that reached it, by what was chosen there.

    ``scenario``, ``turn`` and a share of all episodes for each of ``KINDS``.
    """
    import altair as alt

    values = [
        {"scenario": r["scenario"], "turn": r["turn"], "kind": words, "share": r[kind], "order": i}
        for r in rows
        for i, (kind, (words, _)) in enumerate(KINDS.items())
        if r[kind] > 0
    ]
    last = max((v["turn"] for v in values), default=1)
    turns = alt.Axis(title="turn", titleColor="var(--muted)", titleFontWeight=400, labelAngle=0, grid=False, values=[*range(1, last + 1, -(-last // 7))])  # fmt: skip
    bars = alt.Chart(alt.InlineData(values=values)).mark_bar(stroke="var(--muted)", strokeWidth=0.3).encode(
        x=alt.X("turn:O", axis=turns, scale=alt.Scale(domain=[*range(1, last + 1)])),
        y=alt.Y("share:Q", stack="zero", axis=alt.Axis(title=None, tickCount=3, format=".0%"), scale=alt.Scale(domain=[0, 1])),
        color=_colour(KINDS, {v["kind"] for v in values}), order=alt.Order("order:Q"),
    ).properties(width=alt.Step(max(9, min(20, 2 * PANEL // last))), height=90)  # fmt: skip
    header = alt.Header(title=None, labelColor="var(--ink)", labelFontSize=12, labelPadding=4)
    scenarios = list(dict.fromkeys(r["scenario"] for r in rows))
    return svg(bars.facet(facet=alt.Facet("scenario:N", sort=scenarios, header=header), columns=4, spacing=12))


def place_chart(rows: Rows) -> Markup:
    """Over- and under-asking with their 95 % bands along the way from the first picture (0) to the most telling one (1)."""
    import altair as alt

    values = [
        {"place": r["place"], "kind": words, "value": r[kind], "low": r[kind.replace("asking", "low")], "high": r[kind.replace("asking", "high")]}
        for kind, (words, _) in OVER_UNDER.items() for r in rows if r[kind] is not None
    ]  # fmt: skip
    colour = _colour(OVER_UNDER, {v["kind"] for v in values}, vertical=True)
    dashes = alt.StrokeDash("kind:N", legend=None, scale=alt.Scale(domain=[w for w, _ in OVER_UNDER.values()], range=[[1, 0], [6, 3]]))  # fmt: skip
    base = alt.Chart(alt.InlineData(values=values)).encode(x=alt.X("place:Q", axis=_way(alt), scale=alt.Scale(domain=[0, 1])), color=colour)  # fmt: skip
    axis, scale = alt.Axis(title=None, tickCount=3, format=".0%"), alt.Scale(domain=[0, 1])
    layers = [
        base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", axis=axis, scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=alt.Y("value:Q", axis=axis, scale=scale), strokeDash=dashes),
        base.mark_point(size=24, filled=True, opacity=1).encode(y=alt.Y("value:Q", axis=axis, scale=scale)),
    ]
    return svg(alt.layer(*layers).properties(width=WIDTH + 60, height=130))


def _way(alt: Any) -> Any:
    words = "datum.value == 0 ? 'first picture' : datum.value == 1 ? 'most telling' : ''"
    return alt.Axis(title=None, values=[0, 0.5, 1], labelExpr=words, grid=False, labelFlush=True)


def share_chart(rows: Rows) -> Markup:
    """What answers are while training goes on, stacked to 100 %: ``last_step`` and a share for each of ``LEARNT`` that is there."""
    import altair as alt

    values = [
        {"step": r["last_step"], "kind": words, "share": r[kind], "order": i}
        for r in rows
        for i, (kind, (words, _)) in enumerate(LEARNT.items())
        if r.get(kind) is not None
    ]
    areas = alt.Chart(alt.InlineData(values=values)).mark_area(stroke="var(--muted)", strokeWidth=0.3).encode(
        x=alt.X("step:Q", axis=alt.Axis(title=None, tickCount=6, grid=False, format="d"), scale=alt.Scale(zero=False, nice=False)),
        y=alt.Y("share:Q", stack="zero", axis=alt.Axis(title=None, tickCount=3, format=".0%"), scale=alt.Scale(domain=[0, 1])),
        color=_colour(LEARNT, {v["kind"] for v in values}), order=alt.Order("order:Q"),
    )  # fmt: skip
    return svg(areas.properties(width=2 * WIDTH, height=110))


def _colour(kinds: Mapping[str, tuple[str, str]], used: set[str], *, vertical: bool = False) -> Any:
    """Colours of those kinds that are drawn, in their order, with a legend below."""
    import altair as alt

    shown = [(words, colour) for words, colour in kinds.values() if words in used]
    legend = alt.Legend(
        title=None, orient="bottom", labelColor="var(--ink)", labelFontSize=12, labelLimit=320, columns=1 if vertical else 3,
        symbolStrokeWidth=0.5, symbolOpacity=1, columnPadding=36,
    )  # fmt: skip
    return alt.Color("kind:N", legend=legend, sort=[w for w, _ in shown], scale=alt.Scale(domain=[w for w, _ in shown], range=[c for _, c in shown]))  # fmt: skip
