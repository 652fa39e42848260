"""Steps load models in threads, side by side: the first imports of a process must not trip over one another."""

import subprocess
import sys

CODE = """
import sys, threading
sys.setswitchinterval(1e-6)
from pathlib import Path
from runner.models.encoders.sentence import MeanPooled
folder = Path(sys.argv[1])
errors = []
def load():
    try:
        barrier.wait()
        MeanPooled(folder)
    except BaseException as error:
        errors.append(repr(error))
barrier = threading.Barrier(4)
threads = [threading.Thread(target=load) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(errors)
"""


def test_four_threads_may_import_transformers_first(tmp_path):
    from tests.models.encoders.tiny import write_sentences

    folder = write_sentences(tmp_path / "minilm")
    done = subprocess.run([sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
