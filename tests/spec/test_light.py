"""Validating a spec loads nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "transformers", "langgraph", "openai", "numpy", "pyarrow", "duckdb", "PIL", "jsonschema", "faiss")

PROGRAM = """
import json, sys
sys.path.insert(0, {folder!r})
import runner.spec
assert "yaml" not in sys.modules and "pydantic" not in sys.modules
from spec_vocabulary import PROVIDERS, STEPS
from runner.spec.slots import _models
text = "name: n\\nmodels: {{clip: {{provider: clip, name: x}}}}\\n"
text += "steps: {{a: {{uses: t.search, encoder: $clip, queries: [x]}}}}"
runner.spec.compile_text(text, "s", ".", steps=STEPS, providers=PROVIDERS)
print(json.dumps([sorted(sys.modules), [known.name for known, _ in _models.values()]]))
"""


def test_compiling_loads_no_heavy_module_and_makes_models_only_of_the_steps_in_use() -> None:
    program = PROGRAM.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules, made = json.loads(done.stdout)
    assert not set(HEAVY) & set(modules)
    assert made == ["t.search"]
