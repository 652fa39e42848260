"""The way in: a file or a text, compiled."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from runner.errors import SpecError
from runner.models.registry import load_providers
from runner.spec.compiler import Compiler, Providers, Steps
from runner.spec.model import CompiledSpec
from runner.spec.names import nearest
from runner.spec.source import START, Source
from runner.spec.yaml12 import DEFAULT_LIMITS, decode, read
from runner.steps import load_steps


def load_spec(
    path: Path | str,
    overrides: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    *,
    steps: Steps | None = None,
    providers: Providers | None = None,
) -> CompiledSpec:
    """Read and compile the spec at ``path``.

    ``overrides`` are texts such as ``k=20``. ``env`` is the environment that providers may look at while they are
    validated (default: that of this process). Raises ``SpecError`` with every problem found.
    """
    source = _read_file(str(path))
    return compile_text(source.text, str(path), Path(path).parent, overrides, steps=steps, providers=providers, env=env)


def compile_text(
    text: str,
    file: str,
    base: Path | str,
    overrides: Iterable[str] = (),
    *,
    steps: Steps | None = None,
    providers: Providers | None = None,
    env: Mapping[str, str] | None = None,
) -> CompiledSpec:
    """Compile ``text``. ``file`` names it in messages, ``base`` is the folder that paths are relative to.

    ``steps`` and ``providers`` default to everything registered. Raises ``SpecError`` with every problem found.
    """
    source = Source(file, text)
    root = read(source)
    given = tuple(overrides)
    registered = (load_steps() if steps is None else steps, load_providers() if providers is None else providers)
    compiler = Compiler(source, root, Path(base).absolute(), *registered, os.environ if env is None else env)
    return compiler.compile(given)


def _read_file(path: str) -> Source:
    """The text of a file, at most as many bytes as a spec may have (also from a device or pipe that never ends)."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(DEFAULT_LIMITS.bytes + 1)
    except IsADirectoryError:
        raise _unreadable(path, "this is a folder, not a spec") from None
    except FileNotFoundError:
        raise _unreadable(path, "no such file", nearest(Path(path).name, _siblings(path))) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > DEFAULT_LIMITS.bytes:
        raise _unreadable(path, f"a spec may have at most {DEFAULT_LIMITS.bytes:,} bytes")
    return decode(data, path)


def _unreadable(path: str, message: str, suggestion: str | None = None) -> SpecError:
    near = str(Path(path).with_name(suggestion)) if suggestion else None
    return SpecError([Source(path, "").problem("file", message, START, suggestion=near)])


def _siblings(path: str) -> list[str]:
    try:
        return [p.name for p in Path(path).parent.iterdir() if p.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        return []
