"""Plots as inline SVG: points with their 95 % intervals, one band for each attribute or one line a method; lines of a search.

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
LINES = ("var(--link)", "var(--bad)", "var(--good)")
MOST_TOLD = 16
"""Columns of a heat map up to which its numbers are written into it."""
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
    attributes = distinct(list(dict.fromkeys(r["attribute"] for r in rows)), 40)
    names = {}
    for attribute in attributes:
        values = list(dict.fromkeys(r["name"] for r in rows if r["attribute"] == attribute))
        names[attribute] = distinct(values, 22)
    return [{**r, "attribute": attributes[r["attribute"]], "name": names[r["attribute"]][r["name"]]} for r in rows]


def distinct(texts: list[str], limit: int) -> dict[str, str]:
    """Texts cut to ``limit`` characters on one line; those that then look alike are numbered."""
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
    data = alt.InlineData(values=rows)
    layers = _marks(data, axis, domain, LABELS)
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
    return svg(faceted.resolve_scale(y="independent").resolve_axis(x="independent"))


def _marks(data: Any, axis: Any, domain: tuple[float, float], labels: int) -> list[Any]:
    """Interval, point and number of each row with name, value, low, high, text and verdict; ``labels``: room for names."""
    import altair as alt

    scale = alt.Scale(domain=list(domain), nice=False)
    names = alt.Axis(title=None, labelLimit=labels, minExtent=labels, maxExtent=labels, ticks=False, domain=False)
    colour = alt.Color("verdict:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)
    shape = alt.Shape("verdict:N", scale=alt.Scale(domain=list(SHAPES), range=list(SHAPES.values())), legend=None)
    base = alt.Chart(data).encode(y=alt.Y("name:N", sort=None, axis=names))
    rule = base.mark_rule(strokeWidth=2.5, strokeCap="round", opacity=0.55)
    point = base.mark_point(filled=True, size=75, opacity=1)
    text = base.mark_text(align="left", dx=8, fontSize=11)
    return [
        rule.encode(x=alt.X("low:Q", axis=axis, scale=scale), x2="high:Q", color=colour),
        point.encode(x=alt.X("value:Q", axis=axis, scale=scale), color=colour, shape=shape),
        text.encode(x=alt.value(WIDTH), text="text:N", color=alt.value("var(--muted)")),
    ]


def dot_chart(cells: Sequence[tuple[str, Mapping[str, Any], bool]]) -> Markup:
    """One line a method: (name, its value with low and high, whether it is the highest), from 0 or below to 100."""
    import altair as alt

    names = _names([name for name, _, _ in cells])
    rows = [
        {"name": short, "value": c["value"], "low": c["low"], "high": c["high"], "text": f"{100 * c['value']:.1f}",
         "verdict": "favoured" if best else "no_evidence"}
        for short, (_, c, best) in zip(names, cells, strict=True)
    ]  # fmt: skip
    lowest = min(0.0, *(r[k] for r in rows for k in ("value", "low") if r[k] is not None))
    axis = alt.Axis(labelExpr="format(100 * datum.value, '.0f')", tickCount=5, title=None, grid=True)
    layers = _marks(alt.InlineData(values=rows), axis, (lowest, 1.0), 2 * LABELS)
    return svg(alt.layer(*layers).properties(width=WIDTH, height=alt.Step(24)))


def _names(names: Sequence[str]) -> list[str]:
    """Names cut to what fits beside a chart of lines; a name that comes twice, or looks so, is numbered."""
    used: set[str] = set()
    found = []
    for name in names:
        cut = " ".join(clean(name, 44).split()) or "(blank)"
        number = next(i for i in range(1, len(names) + 1) if (cut if i == 1 else f"{cut} ({i})") not in used)
        found.append(cut if number == 1 else f"{cut} ({number})")
        used.add(found[-1])
    return found


def search_chart(points: Rows, chosen: Rows, x: str) -> Markup:
    """The best validation accuracy for each value of one parameter (``x``), and the pair that was taken."""
    import altair as alt

    values = [{"x": p[x], "y": p["val_accuracy"]} for p in points]
    marks = [{"x": p[x], "y": p["val_accuracy"]} for p in chosen]
    horizontal = alt.X("x:Q", axis=alt.Axis(title=None, tickCount=5, grid=False))
    reach = [p["y"] for p in (*values, *marks)]
    room = max(0.01, 0.1 * (max(reach) - min(reach)))
    vertical = alt.Y(
        "y:Q",
        axis=alt.Axis(title=None, tickCount=4, format=".0%"),
        scale=alt.Scale(domain=[max(0.0, min(reach) - room), min(1.0, max(reach) + room)], nice=False),
    )
    line = alt.Chart(alt.InlineData(values=values)).mark_line(stroke="var(--muted)", strokeWidth=1.5)
    point = alt.Chart(alt.InlineData(values=marks)).mark_point(filled=True, size=75, opacity=1, color="var(--good)")
    layers = [line.encode(x=horizontal, y=vertical), point.encode(x=horizontal, y=vertical)]
    return svg(alt.layer(*layers).properties(width=WIDTH, height=90))


def spectrum_chart(directions: Rows) -> Markup:
    """Singular values of a layer's heads, by rank: one line a head (``head``, ``sv``, ``sigma``)."""
    import altair as alt

    values = [{"head": d["head"], "sv": d["sv"], "sigma": d["sigma"]} for d in directions]
    return svg(
        alt.Chart(alt.InlineData(values=values))
        .mark_line(stroke="var(--link)", strokeWidth=1.2, opacity=0.7)
        .encode(
            x=alt.X("sv:Q", axis=alt.Axis(title=None, tickCount=5, tickMinStep=1, grid=False)),
            y=alt.Y("sigma:Q", axis=alt.Axis(title=None, tickCount=4), scale=alt.Scale(domainMin=0)),
            detail="head:N",
        )
        .properties(width=WIDTH, height=110)
    )


def depth_chart(points: Rows) -> Markup:
    """Lines over the layers of a network with their 95 % bands: ``name``, ``layer``, ``value``, ``low``, ``high``; chance is 0.5."""
    import altair as alt

    values = [{k: p[k] for k in ("name", "layer", "value", "low", "high")} for p in points]
    names = list(dict.fromkeys(p["name"] for p in values))
    told = alt.Legend(
        title=None,
        orient="bottom",
        direction="vertical",
        labelColor="var(--ink)",
        labelFontSize=12,
        labelLimit=320,
        symbolOpacity=1,
    )
    colour = alt.Color("name:N", scale=alt.Scale(domain=names, range=list(LINES[: len(names)])), legend=told)
    dashes = alt.StrokeDash(
        "name:N", scale=alt.Scale(domain=names, range=[[1, 0], [6, 3], [2, 2]][: len(names)]), legend=told
    )
    lowest = min([0.45, *(v for p in values for v in (p["value"], p["low"]) if v is not None)])
    scale = alt.Scale(domain=[lowest, 1.0], nice=False, zero=False)
    axis = alt.Axis(title=None, tickCount=5)
    numbers = sorted({p["layer"] for p in values})
    layers = alt.Axis(title=None, values=numbers[:: -(-len(numbers) // 13)], format="d", grid=False)
    data = alt.Chart(alt.InlineData(values=values))
    base = data.encode(x=alt.X("layer:Q", axis=layers), color=colour)
    drawn = [
        data.mark_rule(strokeDash=[3, 3], stroke="var(--muted)").encode(y=alt.datum(0.5)),
        base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", axis=axis, scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=alt.Y("value:Q", axis=axis, scale=scale), strokeDash=dashes),
        base.mark_point(size=28, filled=True, opacity=1).encode(y=alt.Y("value:Q", axis=axis, scale=scale)),
    ]
    return svg(alt.layer(*drawn).properties(width=2 * WIDTH, height=190))


def heat_map(cells: Rows, *, reach: tuple[float, float], signed: bool = False) -> Markup:
    """Squares of ``row``, ``column``, ``value`` (None: left blank), darker between the two ends of ``reach``; with ``signed`` values
    below 0 have another colour. ``row`` and ``column`` are names, in the order in which they come."""
    import altair as alt

    rows, columns = (distinct(list(dict.fromkeys(c[axis] for c in cells)), 22) for axis in ("row", "column"))
    low, high = reach
    values = [
        {"row": rows[c["row"]], "column": columns[c["column"]], "value": c["value"], "text": f"{c['value']:.2f}".replace("-", "\u2212"),
         "depth": min(1.0, max(0.0, (abs(c["value"]) - low) / max(high - low, 1e-9))), "side": "below" if signed and c["value"] < 0 else "above"}
        for c in cells if c["value"] is not None
    ]  # fmt: skip
    axis: dict[str, Any] = {"title": None, "ticks": False, "domain": False, "labelLimit": LABELS, "grid": False}
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("column:N", sort=list(columns.values()), axis=alt.Axis(orient="top", labelAngle=-40, **axis)),
        y=alt.Y("row:N", sort=list(rows.values()), axis=alt.Axis(**axis)),
    )
    fill = alt.Color("side:N", legend=None, scale=alt.Scale(domain=["above", "below"], range=["var(--link)", "var(--bad)"]))  # fmt: skip
    depth = alt.Opacity("depth:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0.04, 0.75]))
    layers = [base.mark_rect(stroke="var(--line)", strokeWidth=0.5).encode(color=fill, opacity=depth)]
    if len(columns) <= MOST_TOLD:
        layers.append(base.mark_text(fontSize=10, color="var(--ink)").encode(text="text:N"))
    side = 34 if len(columns) <= MOST_TOLD else 16
    return svg(alt.layer(*layers).properties(width=alt.Step(side), height=alt.Step(min(side, 26))))


def svg(chart: Any) -> Markup:
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
    picture: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    return Markup(picture)  # noqa: S704
