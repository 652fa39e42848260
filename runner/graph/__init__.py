"""From a compiled spec to a finished run: planning, content keys, artifacts, executing, resuming, progress."""

from runner.graph.plan import Plan, make_plan
from runner.graph.run import RunOutcome, execute, resume_run, run_spec
from runner.graph.store import ArtifactStore
from runner.graph.workspace import Workspace

__all__ = [
    "ArtifactStore",
    "Plan",
    "RunOutcome",
    "Workspace",
    "execute",
    "make_plan",
    "resume_run",
    "run_spec",
]
