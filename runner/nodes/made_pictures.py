"""Pictures that a step has made, kept where later steps read them. Light."""

from __future__ import annotations

import shutil
from pathlib import Path

from runner.context import StepContext


def kept(ctx: StepContext, kind: str, key: str, made: Path) -> Path:
    """A copy of the folder in the workspace's shared one: an artifact's own folder moves when its step is done.

    ``key`` names the content: a folder that is there already is the same.
    """
    home = ctx.shared / kind / key
    if not home.exists():
        draft = ctx.scratch / kind
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(made, draft)
        home.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.rename(home)
        except OSError:
            if not home.is_dir():  # else another run was faster, with the same content
                raise
    return home
