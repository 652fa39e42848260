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
    "not_testable": "var(--held)",
    "insufficient_data": "var(--faint)",
    "undefined": "var(--faint)",
}
SHAPES = {
    "disfavoured": "triangle-down",
    "favoured": "triangle-up",
    "no_evidence": "circle",
    "held_back": "diamond",
    "not_testable": "square",
    "insufficient_data": "cross",
    "undefined": "cross",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
WIDTH = 210
LABELS = 118


def accuracy_chart(groups: Rows, reference: float | None) -> Markup:
    """Accuracy of each group of one target, 0 to 100 %; a dashed line at ``reference`` (accuracy on neutral captions)."""
    texts = [f"{percent(g['acc'])} of {g['n']}" if g["n"] else "no images" for g in groups]
    limits = ("acc", "wilson_low", "wilson_high")
    rows = [_row(g, limits, text) for g, text in zip(groups, texts, strict=True)]
    return _forest(rows, (0.0, 1.0), "format(datum.value, '.0%')", [0, 0.25, 0.5, 0.75, 1], reference)


def score_chart(groups: Rows) -> Markup:
    """Bias score of each group of one target, in points around zero; NULL scores leave their line empty."""
    limits = ("phi", "phi_low", "phi_high")
    rows = [_row(g, limits, points(g["phi"])) for g in groups]
    reach = max([0.25, *(abs(v) for r in rows for v in (r["low"], r["high"], r["value"]) if v is not None)])
    edge = min(1.0, 0.05 * -(-reach // 0.05))
    return _forest(rows, (-edge, edge), "replace(format(100 * datum.value, '+.0f'), '+0', '0')", None, 0.0)


def _row(group: Mapping[str, Any], limits: tuple[str, str, str], text: str) -> dict[str, Any]:
    """One mark; ``limits`` name the columns of its value and interval."""
    verdict = group["verdict"] if group["verdict"] in SHAPES else "undefined"
    return {
        "attribute": group["circumstance"], "name": group["value"], **dict(zip(("value", "low", "high"), map(group.get, limits), strict=True)),
        "text": text, "verdict": verdict,
    }  # fmt: skip


def _short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with names cut to what fits; names that look alike when cut are numbered, so that none shares a line."""
    attributes = _distinct(list(dict.fromkeys(r["attribute"] for r in rows)), 40)
    names = {}
    for attribute in attributes:
        values = list(dict.fromkeys(r["name"] for r in rows if r["attribute"] == attribute))
        names[attribute] = _distinct(values, 22)
    return [{**r, "attribute": attributes[r["attribute"]], "name": names[r["attribute"]][r["name"]]} for r in rows]


def _distinct(texts: list[str], limit: int) -> dict[str, str]:
    short: dict[str, str] = {}
    for text in texts:
        cut = " ".join(clean(text, limit).split()) or "(blank)"
        same = sum(s == cut or s.startswith(f"{cut} (") for s in short.values())
        short[text] = f"{cut} ({same + 1})" if same else cut
    return short


def _forest(
    rows: list[dict[str, Any]],
    domain: tuple[float, float],
    label: str,
    ticks: list[float] | None,
    reference: float | None,
) -> Markup:
    import altair as alt

    rows = _short(rows)
    axis = alt.Axis(
        labelExpr=label, values=ticks or alt.Undefined, tickCount=5, labelFlush=False, title=None, grid=True
    )
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
    faceted = chart.facet(
        row=alt.Row("attribute:N", sort=list(dict.fromkeys(r["attribute"] for r in rows)), header=header), spacing=14
    )
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
