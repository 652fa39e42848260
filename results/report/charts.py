"""Forest plots as inline SVG: a point and its 95 % interval for each value, one band for each attribute.

Drawn by Altair and vl-convert with the data inside and no network. Colours are CSS variables, so that the page's light,
dark and print styles reach into the picture; shapes repeat what colours say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from results.report.words import clean, percent, points

Rows = Sequence[Mapping[str, Any]]

COLOURS = {
    "disfavoured": "var(--bad)",
    "favoured": "var(--good)",
    "no_evidence": "var(--muted)",
    "held_back": "var(--held)",
    "insufficient_data": "var(--faint)",
    "undefined": "var(--faint)",
}
SHAPES = {
    "disfavoured": "triangle-down",
    "favoured": "triangle-up",
    "no_evidence": "circle",
    "held_back": "diamond",
    "insufficient_data": "cross",
    "undefined": "cross",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
WIDTH = 210
LABELS = 118


def accuracy_chart(groups: Rows, reference: float | None) -> Markup:
    """Accuracy of each group of one target, 0 to 100 %; a dashed line at ``reference`` (accuracy on neutral captions)."""
    rows = [
        _row(
            g,
            g["acc"],
            g["wilson_low"],
            g["wilson_high"],
            f"{percent(g['acc'])} of {g['n']}" if g["n"] else "no images",
        )
        for g in groups
    ]
    return _forest(rows, (0.0, 1.0), "format(datum.value, '.0%')", reference)


def score_chart(groups: Rows) -> Markup:
    """Bias score of each group of one target, in points around zero; NULL scores leave their line empty."""
    rows = [_row(g, g["phi"], g["phi_low"], g["phi_high"], points(g["phi"])) for g in groups]
    reach = max([0.25, *(abs(v) for r in rows for v in (r["low"], r["high"], r["value"]) if v is not None)])
    edge = min(1.0, 0.05 * -(-reach // 0.05))
    return _forest(rows, (-edge, edge), "replace(format(100 * datum.value, '+.0f'), '+0', '0')", 0.0)


def _row(group: Mapping[str, Any], value: Any, low: Any, high: Any, text: str) -> dict[str, Any]:
    verdict = group["verdict"] if group["verdict"] in SHAPES else "undefined"
    name = clean(group["value"], 24)
    return {
        "attribute": clean(group["attribute"], 40), "name": name, "value": value, "low": low, "high": high,
        "text": text, "verdict": verdict,
    }  # fmt: skip


def _forest(rows: list[dict[str, Any]], domain: tuple[float, float], ticks: str, reference: float | None) -> Markup:
    import altair as alt

    axis = alt.Axis(labelExpr=ticks, tickCount=5, title=None, grid=True)
    x = alt.X("value:Q", scale=alt.Scale(domain=list(domain), nice=False), axis=axis)
    y = alt.Y(
        "name:N",
        sort=None,
        axis=alt.Axis(title=None, labelLimit=LABELS, minExtent=LABELS, maxExtent=LABELS, ticks=False, domain=False),
    )
    colour = alt.Color("verdict:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)
    shape = alt.Shape("verdict:N", scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())), legend=None)
    data = alt.InlineData(values=rows)
    base = alt.Chart(data).encode(y=y)
    layers = [
        base.mark_rule(strokeWidth=2.5, strokeCap="round", opacity=0.55).encode(
            x=alt.X("low:Q", axis=axis, scale=alt.Scale(domain=list(domain), nice=False)), x2="high:Q", color=colour
        ),
        base.mark_point(filled=True, size=75, opacity=1).encode(x=x, color=colour, shape=shape),
        base.mark_text(align="left", dx=8, fontSize=11).encode(
            x=alt.value(WIDTH), text="text:N", color=alt.value("var(--muted)")
        ),
    ]
    if reference is not None:
        line = alt.Chart(data).transform_aggregate(groups="count()", groupby=["attribute"])
        layers.insert(0, line.mark_rule(strokeDash=[3, 3], stroke="var(--muted)").encode(x=alt.datum(reference)))
    chart = alt.layer(*layers).properties(width=WIDTH, height=alt.Step(24))
    header = alt.Header(
        title=None, labelOrient="top", labelAnchor="start", labelFontWeight=600, labelFontSize=12, labelLimit=320,
        labelColor="var(--ink)", labelPadding=4,
    )  # fmt: skip
    faceted = chart.facet(row=alt.Row("attribute:N", sort=None, header=header), spacing=14)
    return _svg(faceted.resolve_scale(y="independent").resolve_axis(x="independent"))


def _svg(chart: Any) -> Markup:
    """Vega escapes all text; the outer size gives way to the page's."""
    import vl_convert

    style = {
        "labelColor": "var(--muted)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "labelFontSize": 11,
    }
    config = {
        "background": None, "padding": {"left": 4, "right": 24, "top": 4, "bottom": 4}, "font": FONT, "aria": False, "view": {"stroke": None},
        "axis": {**style, "tickColor": "var(--line)", "labelFont": FONT}, "axisY": {"labelColor": "var(--ink)", "labelFontSize": 12},
    }  # fmt: skip
    spec = {**chart.to_dict(), "config": config}
    svg: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    return Markup(svg)  # noqa: S704
