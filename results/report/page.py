"""The page and its sections.

A section names the tables it speaks for, collects its rows while the database is open, and turns them into parts
afterwards, so that drawing keeps no writer waiting. A part is one heading with a template and what it shows.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from results.report import words
from runner.errors import UsageError

if TYPE_CHECKING:
    import jinja2

    from results.store import Reader, ResultsStore

LARGE = 20 * 1024 * 1024
SECTION_MODULES = (
    "results.report.sections.comparison",
    "results.report.sections.c2b",
    "results.report.sections.faces",
    "results.report.sections.openworld",
    "results.report.sections.circle",
    "results.report.sections.closed_world",
    "results.report.sections.debias",
    "results.report.sections.heads",
    "results.report.sections.leakage",
    "results.report.sections.locality",
    "results.report.sections.discovery",
    "results.report.sections.proactive",
    "results.report.sections.proactive_curves",
    "results.report.sections.proactive_episodes",
    "results.report.sections.proactive_training",
    "results.report.sections.pruning",
    "results.report.sections.merging",
    "results.report.sections.vqa",
    "results.report.sections.datasets",
    "results.report.sections.tables",
    "results.report.sections.run",
)
ENTRY_POINT_GROUP = "runner.report"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One heading of the page: ``anchor`` is its address, ``variables`` fill ``template`` (a file in templates/)."""

    anchor: str
    title: str
    template: str
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What a section is asked to show. ``covered``: results tables that earlier sections speak for."""

    run_id: str
    examples: int
    covered: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Section:
    """What one method adds to the report.

    ``collect``: its rows, or None where the run has none; called while the database is open. ``parts``: what to show of
    them. ``tables``: the results tables it speaks for; others are shown plainly.
    """

    name: str
    tables: frozenset[str]
    collect: Callable[[Reader, Request], Any]
    parts: Callable[[Any], list[Part]]


def sections() -> list[Section]:
    """All sections in the order of the page; a module lists its own as ``SECTIONS``."""
    modules = [importlib.import_module(name) for name in SECTION_MODULES]
    modules[-1:-1] = [entry.load() for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)]
    return [section for module in modules for section in module.SECTIONS]


def render(store: ResultsStore, run_id: str, *, examples: int = 8) -> str:
    """The report of a run as one HTML page. ``examples``: pictures shown per group and outcome at most.

    Raises ``UsageError`` for a run that is not in the file.
    """
    run, found = _collect(store, run_id, examples)
    parts = [part for section, data in found for part in section.parts(data)]
    environment = templates()
    bodies = [environment.get_template(part.template).render(part=part, run=run, **part.variables) for part in parts]
    page = environment.get_template("page.html.jinja").render(
        run=run, parts=list(zip(parts, bodies, strict=True)), policy=CONTENT_SECURITY_POLICY, style=_style()
    )
    if len(page) > LARGE:
        _log.warning("the report of %s is %d MB; fewer example pictures make it smaller", run_id, len(page) >> 20)
    return page


def _collect(store: ResultsStore, run_id: str, examples: int) -> tuple[dict[str, Any], list[tuple[Section, Any]]]:
    with store.reading() as read:
        runs = read("SELECT * FROM runs WHERE run_id = $run", {"run": run_id}).to_pylist()
        if not runs:
            raise UsageError(f"there is no run {run_id!r} in {store.path}", hint="runner runs lists them")
        found, covered = [], frozenset[str]()
        for section in sections():
            covered |= section.tables
            data = section.collect(read, Request(run_id, examples, covered))
            if data is not None:
                found.append((section, data))
    return runs[0], found


@functools.cache
def templates() -> jinja2.Environment:
    """The environment of all templates: everything is escaped, an unknown name is an error."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("results.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    environment.filters["body"] = Markup  # of parts, which came from these templates
    environment.globals["VERDICT_WORDS"] = words.VERDICTS
    environment.globals["AGREEMENT_WORDS"] = words.AGREEMENTS
    environment.globals["STOPPED_WORDS"] = words.STOPPED
    return environment


def _style() -> Any:
    from importlib import resources

    from markupsafe import Markup

    return Markup(resources.files("results.report.templates").joinpath("style.css").read_text("utf8"))  # noqa: S704
