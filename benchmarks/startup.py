"""Import and start-up times: what a person waits for before anything happens.

    python benchmarks/startup.py

Each command runs in fresh processes; the first run is not counted. Prints the median of wall time, and what heavy
packages each command imported.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 7
HEAVY = (
    "torch",
    "transformers",
    "langgraph",
    "openai",
    "duckdb",
    "pyarrow",
    "numpy",
    "pydantic",
    "faiss",
    "jsonschema",
)
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import runner": ["-c", "import runner"],
    "runner --help": ["-m", "runner", "--help"],
    "runner steps": ["-m", "runner", "steps"],
    "runner validate specs/c2b.yaml": ["-m", "runner", "validate", "specs/c2b.yaml"],
    "runner plan specs/c2b.yaml": ["-m", "runner", "plan", "specs/c2b.yaml"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def heavy_imports(arguments: list[str]) -> list[str]:
    """Heavy packages that the process imported."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], check=True, capture_output=True, text=True)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return [name for name in HEAVY if name in names]


def main() -> None:
    """Print one line a command."""
    for name, arguments in COMMANDS.items():
        seconds(arguments)
        median = statistics.median(seconds(arguments) for _ in range(RUNS))
        print(f"{name:<34} {1000 * median:7.0f} ms   {', '.join(heavy_imports(arguments)) or '-'}")


if __name__ == "__main__":
    main()
