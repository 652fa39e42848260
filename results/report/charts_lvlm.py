"""Plots of pruning, training and merging as inline SVG; drawn as those of ``results.report.charts``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from results.report.charts import LABELS, LINES, WIDTH, distinct, svg
from results.report.words import figure

Row = dict[str, Any]
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
"""Domains: colours that can be told apart without seeing red or green (Okabe and Ito); the last is of all further ones."""
ZERO = [3, 3]


def block_strip(kept: Sequence[bool]) -> Markup:
    """One square a decoder block, first on the left: filled where it stays, empty with a cross where it went."""
    import altair as alt

    values = [{"block": i, "kept": stays} for i, stays in enumerate(kept)]
    side = max(9, min(22, 2 * WIDTH // max(len(values), 1)))
    every = -(-len(values) // 16)
    axis = alt.Axis(title=None, ticks=False, domain=False, grid=False, labelAngle=0, values=[*range(0, len(values), every)])  # fmt: skip
    data = alt.Chart(alt.InlineData(values=values)).encode(x=alt.X("block:O", axis=axis))
    squares = data.mark_rect(stroke="var(--link)", strokeWidth=1).encode(
        color=alt.Color(
            "kept:N", legend=None, scale=alt.Scale(domain=[True, False], range=["var(--link)", "transparent"])
        )
    )
    crosses = data.transform_filter("!datum.kept").mark_point(shape="cross", angle=45, filled=True, size=40, opacity=1)
    return svg(alt.layer(squares, crosses.encode(color=alt.value("var(--bad)"))).properties(width=alt.Step(side), height=18))  # fmt: skip


def width_chart(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Share of heads and of neurons that each block keeps: ``layer`` (original number), ``what``, ``share`` 0..1."""
    import altair as alt

    values = [{k: r[k] for k in ("layer", "what", "share")} for r in rows]
    names = list(dict.fromkeys(r["what"] for r in values))
    layers = sorted({r["layer"] for r in values})
    across = alt.Axis(title=None, labelAngle=0, grid=False, values=layers[:: -(-len(layers) // 16)])
    upwards = alt.Axis(title=None, tickCount=3, format=".0%")
    bars = alt.Chart(alt.InlineData(values=values)).mark_bar(opacity=0.85).encode(
        x=alt.X("layer:O", axis=across),
        y=alt.Y("share:Q", axis=upwards, scale=alt.Scale(domain=[0, 1])),
        color=_colour("what", names, PALETTE),
    )  # fmt: skip
    step = max(9, min(22, 2 * WIDTH // max(len(layers), 1)))
    return svg(bars.properties(width=alt.Step(step), height=70).facet(row=alt.Row("what:N", sort=names, header=alt.Header(title=None, labels=False)), spacing=8))  # fmt: skip


def _colour(field: str, names: Sequence[str], colours: Sequence[str]) -> Any:
    import altair as alt

    legend = alt.Legend(title=None, orient="bottom", labelColor="var(--ink)", labelFontSize=12, labelLimit=320)
    used = [colours[min(i, len(colours) - 1)] for i in range(len(names))]
    return alt.Color(f"{field}:N", legend=legend, sort=list(names), scale=alt.Scale(domain=list(names), range=used))


def curve_chart(points: Sequence[Mapping[str, Any]]) -> Markup:
    """Lines over training steps: ``name``, ``step``, ``value`` (None: left out)."""
    import altair as alt

    values = [{k: p[k] for k in ("name", "step", "value")} for p in points if p["value"] is not None]
    names = list(dict.fromkeys(p["name"] for p in values))
    steps = sorted({p["step"] for p in values})
    few = steps if len(steps) <= 8 else alt.Undefined
    across = alt.Axis(title=None, tickCount=6, values=few, grid=False, format="d")
    chart = alt.Chart(alt.InlineData(values=values)).mark_line(strokeWidth=2, point={"size": 16}).encode(
        x=alt.X("step:Q", axis=across, scale=alt.Scale(zero=False)),
        y=alt.Y("value:Q", axis=alt.Axis(title=None, tickCount=5)),
        color=_colour("name", names, (*LINES, "var(--held)")),
    )  # fmt: skip
    return svg(chart.properties(width=2 * WIDTH, height=150))


def ranking_chart(rows: Sequence[Mapping[str, Any]], domains: Sequence[str]) -> Markup:
    """A line a mixture: its shares as a bar, and its objective with its interval.

    ``name``, ``weights`` (in the order of ``domains``), ``value``, ``low``, ``high``, ``kind`` (``best``, ``same``, ``other``).
    """
    import altair as alt

    names = distinct([r["name"] for r in rows], 22)
    short = distinct(list(domains), 22)
    shares = [
        {"name": names[r["name"]], "domain": short[domain], "share": share, "order": i}
        for r in rows
        for i, (domain, share) in enumerate(zip(domains, r["weights"] or (), strict=False))
    ]
    lines = [{**{k: r[k] for k in ("value", "low", "high", "kind")}, "name": names[r["name"]], "text": figure(r["value"])} for r in rows]  # fmt: skip
    axis = alt.Axis(title=None, labelLimit=LABELS, ticks=False, domain=False)
    order = list(names.values())
    bars = alt.Chart(alt.InlineData(values=shares)).mark_bar(height={"band": 0.6}).encode(
        y=alt.Y("name:N", sort=order, axis=axis),
        x=alt.X("share:Q", stack="zero", axis=alt.Axis(title=None, tickCount=3, format=".0%", grid=False), scale=alt.Scale(domain=[0, 1])),
        color=_colour("domain", list(short.values()), PALETTE), order=alt.Order("order:Q"),
    ).properties(width=WIDTH * 2 // 3, height=alt.Step(22))  # fmt: skip
    return svg(
        alt.hconcat(bars, _intervals(lines, order), spacing=18).resolve_scale(y="independent", color="independent")
    )


def _intervals(lines: Sequence[Row], order: Sequence[str]) -> Any:
    import altair as alt

    kinds = ["best", "same", "other"]
    colour = alt.Color("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=["var(--good)", "var(--link)", "var(--muted)"]))  # fmt: skip
    shape = alt.Shape("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=["triangle-up", "circle", "square"]))
    base = alt.Chart(alt.InlineData(values=list(lines))).encode(y=alt.Y("name:N", sort=list(order), axis=None))
    axis = alt.Axis(title=None, tickCount=4, grid=True)
    scale = alt.Scale(zero=False)
    rule = base.mark_rule(strokeWidth=2.5, strokeCap="round", opacity=0.55)
    point = base.mark_point(filled=True, size=65, opacity=1)
    text = base.mark_text(align="left", dx=8, fontSize=11)
    return alt.layer(
        rule.encode(x=alt.X("low:Q", axis=axis, scale=scale), x2="high:Q", color=colour),
        point.encode(x=alt.X("value:Q", axis=axis, scale=scale), color=colour, shape=shape),
        text.encode(x=alt.value(WIDTH), text="text:N", color=alt.value("var(--muted)")),
    ).properties(width=WIDTH, height=alt.Step(22))


def scatter_chart(points: Sequence[Mapping[str, Any]]) -> Markup:
    """Stand-in (across) against really trained (upwards): ``name``, ``proxy``, ``true``, ``low`` and ``high`` of the stand-in,
    ``true_low``, ``true_high``, ``best`` (whether the stand-ins choose it)."""
    import altair as alt

    names = distinct([p["name"] for p in points], 14)
    fields = ("proxy", "true", "low", "high", "true_low", "true_high", "best")
    values = [{**{k: p[k] for k in fields}, "name": names[p["name"]]} for p in points]
    data = alt.Chart(alt.InlineData(values=values))
    across = alt.X("proxy:Q", axis=alt.Axis(title="merged stand-in", titleColor="var(--muted)", titleFontWeight=400, tickCount=5), scale=alt.Scale(zero=False))  # fmt: skip
    upwards = alt.Y("true:Q", axis=alt.Axis(title="really trained", titleColor="var(--muted)", titleFontWeight=400, tickCount=5), scale=alt.Scale(zero=False))  # fmt: skip
    colour = alt.Color("best:N", legend=None, scale=alt.Scale(domain=[True, False], range=["var(--good)", "var(--link)"]))  # fmt: skip
    rule = data.mark_rule(strokeWidth=1.5, opacity=0.35)
    layers = [
        rule.encode(x="low:Q", x2="high:Q", y=upwards, color=colour),
        rule.encode(x=across, y="true_low:Q", y2="true_high:Q", color=colour),
        data.mark_point(filled=True, size=60, opacity=1).encode(x=across, y=upwards, color=colour),
    ]
    if len(values) <= 24:
        layers.append(data.mark_text(align="left", dx=6, dy=-6, fontSize=10).encode(x=across, y=upwards, text="name:N", color=alt.value("var(--muted)")))  # fmt: skip
    return svg(alt.layer(*layers).properties(width=300, height=240))
