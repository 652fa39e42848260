"""Commands that read what runs left: sql, runs, status, report, results check and rebuild."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from runner.cli_options import AsJson, ResultsFile, open_store, results_path
from runner.shown import shown

results_app = typer.Typer(help="Compare the results file with the artifacts, or make it again.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(epilog=SQL_EXAMPLE)(sql)
    for command in (runs, status, report):
        app.command()(command)
    app.add_typer(results_app, name="results")


SQL_EXAMPLE = "Example: runner sql \"select target, value, phi from verdicts where verdict = 'disfavoured'\""


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; '-' reads it from standard input.")],
    results: ResultsFile = None,
    format: Annotated[str, typer.Option(help="table, csv, json or parquet.")] = "table",
    output: Annotated[Path | None, typer.Option(help="Write here instead.", metavar="FILE")] = None,
) -> None:
    """Query the results. Reading only; `show tables` and `describe NAME` help."""
    from runner.commands import answer

    answer(open_store(results), sys.stdin.read() if query == "-" else query, format, output)


def runs(results: ResultsFile = None, as_json: AsJson = False) -> None:
    """List the runs in a results file, newest first."""
    from runner.commands import answer

    query = "select run_id, status, created, seconds, profile, description from runs order by created desc"
    answer(open_store(results), query, "json" if as_json else "table", None)


def status(run: Annotated[str, typer.Argument(help="A run.")] = "latest", results: ResultsFile = None) -> None:
    """What a run did, step by step, and what it waits for."""
    from runner.commands import describe_run

    typer.echo(shown(describe_run(results_path(results), run)))


def report(
    run: Annotated[str, typer.Argument(help="A run.")] = "latest",
    results: ResultsFile = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the page.", metavar="FILE")] = None,
) -> None:
    """Write the report of a run: one HTML file that needs no network."""
    from runner.commands import write_report

    typer.echo(str(write_report(open_store(results), run, output)))


@results_app.command("check")
def results_check(results: ResultsFile = None) -> None:
    """Compare the results file with the artifacts; exit code 1 where they differ."""
    from results.rebuild import check

    path = results_path(results)
    differences = check(path.absolute().parent, path.name)
    for difference in differences:
        typer.echo(shown(difference))
    typer.echo(f"{len(differences)} differences" if differences else "the results file and the artifacts agree")
    raise typer.Exit(1 if differences else 0)


@results_app.command("rebuild")
def results_rebuild(results: ResultsFile = None) -> None:
    """Make the results file again from the artifacts and the runs' records."""
    from results.rebuild import rebuild

    path = results_path(results)
    outcome = rebuild(path.absolute().parent, path.name, say=typer.echo)
    typer.echo(f"{path}: made again; {outcome}")
