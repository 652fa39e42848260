"""A process that writes to a results file: ``writer_program.py FILE NAME COUNT [--slow-open]``.

Writes COUNT steps of run NAME, each with two rows in two tables, and prints the number of each step once it is
committed. ``--slow-open``: sleeps inside ``duckdb.connect``, with the lock in hand. ``--large``: each step also holds 400 KB.
"""

import os
import sys
import time

import duckdb

from results.store import ResultsStore
from results.tables import arrow_table


def slow_open():
    real = duckdb.connect

    def connect(*args, **kwargs):
        time.sleep(0.3)
        return real(*args, **kwargs)

    duckdb.connect = connect


def rows(number):
    gate = [{"target": str(i), "n": number, "k": 0, "chance": 0.5} for i in range(2)]
    score = [{"head": "h", "dataset": str(i), "metric": "m", "value": number, "n": number} for i in range(2)]
    return {"c2b_gate": arrow_table("c2b_gate", gate), "encoder_score": arrow_table("encoder_score", score)}


def picture(data):
    names = ("target", "attribute", "value", "source_id", "uri", "pred")
    return {**dict.fromkeys(names, "x"), "correct": True, "thumbnail": data}


def main(path, name, count, *options):
    if "--slow-open" in options:
        slow_open()
    store = ResultsStore(path, timeout=120)
    for number in range(int(count)):
        content = rows(number)
        if "--large" in options:
            content["c2b_example"] = arrow_table("c2b_example", [picture(os.urandom(400_000))])
        store.replace_step(name, "", f"s{number}", content)
        print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
