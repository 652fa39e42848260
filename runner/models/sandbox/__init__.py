"""A child process that may run a stranger's code: no network, nothing to write, little to read, limits on everything.

``Sandbox`` starts the child; it confines itself before it imports anything that is not the standard library, says which
layers hold, and then serves requests over two pipes (JSON headers and raw bytes, never a pickle). Nothing it sends is
believed. Linux on x86-64 and arm64 only; elsewhere nothing can be confined, and so nothing is started.
"""

from runner.models.sandbox.process import Limits, Sandbox, printable
from runner.models.sandbox.wire import SandboxFailure

__all__ = ["Limits", "Sandbox", "SandboxFailure", "printable"]
