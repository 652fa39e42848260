"""The command line: parses, calls, prints. Nothing heavy is imported before a command needs it.

Exit codes: 0 fine; 1 broke; 2 wrong spec or usage; 3 finished with failed items; 4 waiting for a person;
5 a fail_on bar was crossed; 130 interrupted, and the same command goes on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner import cli_machine, cli_results
from runner.cli_options import AsJson, ResultsFile, results_path
from runner.errors import EXIT_BROKE, EXIT_INTERRUPTED, RunnerError, SpecError, UsageError
from runner.shown import shown

if TYPE_CHECKING:
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
    "5 a fail_on bar was crossed, 130 interrupted (the same command goes on).",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecPath = Annotated[Path, typer.Argument(help="The YAML spec.", metavar="SPEC")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a param: --set k=20. May be repeated.", metavar="NAME=VALUE")
]


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
    results: Annotated[
        Path | None,
        typer.Option(
            "--results", "-r", help="Instead of the spec's own; with --from-run: where the run stands.", metavar="FILE"
        ),
    ] = None,
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

    raise typer.Exit(resume_and_report(results_path(results), run, approve))


@app.command(epilog="Example: runner play specs/proactive.yaml --episodes 1")
def play(
    spec: SpecPath,
    overrides: Overrides = None,
    role: Annotated[
        str, typer.Option("--as", help="'model': you answer. 'user': a model asks, and you do what it asks for.")
    ] = "model",
    model: Annotated[
        str | None, typer.Option(help="With --as user: the spec's model that asks. Default: the first that plays.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes of each scenario.", min=1)] = 2,
    scenario: Annotated[list[str] | None, typer.Option(help="Only this one. May be repeated.")] = None,
    hint: Annotated[bool, typer.Option(help="Show the hint that models may be given.")] = False,
    show: Annotated[
        str | None, typer.Option(help="Where pictures appear: viewer, terminal or path. Default: what there is.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", "-r", help="Instead of the spec's own.", metavar="FILE")
    ] = None,
) -> None:
    """Play proactive episodes yourself; 'q' leaves, and the same command goes on."""
    from runner.commands import play_and_report
    from runner.playing import PlayRequest

    if role not in ("model", "user"):
        raise UsageError(f"--as {role}: model or user is meant")
    if show not in (None, "viewer", "terminal", "path"):
        raise UsageError(f"--show {show}: viewer, terminal or path is meant")
    request = PlayRequest(role, model, episodes, tuple(scenario or ()), hint)  # type: ignore[arg-type]
    compiled = _compiled(spec, overrides, None, results)
    raise typer.Exit(play_and_report(compiled, spec, request, show))  # type: ignore[arg-type]


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
        typer.Option(
            help="Pictures: a folder (also img2dataset's), 'shards/*.tar', 'files/*.parquet', a list of links (.csv, "
            ".tsv, .jsonl, .txt, .parquet) or packaged:NAME. May be repeated."
        ),
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
    preprocess: Annotated[
        str | None, typer.Option(help="What the model expects: '{size: 224, mean: [...], std: [...]}'.", metavar="YAML")
    ] = None,
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
        preprocess=preprocess, verifier=verifier, calibration=calibration, include=include or [],
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

        return spec_of_run(results_path(results), from_run, overrides or [])
    if spec is None:
        raise UsageError("which spec?", hint="runner exec SPEC.yaml, or runner exec --from-run RUN")
    compiled = load_spec(spec, overrides or [])
    return compiled if results is None else dataclasses.replace(compiled, results=results.absolute())


cli_results.register(app)
cli_machine.register(app)


if __name__ == "__main__":
    main()
