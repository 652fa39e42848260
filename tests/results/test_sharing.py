"""Many processes, one file: nothing lost, nothing doubled, whoever is slow, killed or out of disk."""

import fcntl
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from synthetic_audit import RUN, audit
from writer_program import rows

from results.locking import holders
from results.store import ResultsStore, lock_file
from results.tables import arrow_table
from runner.errors import ResultsBusy, ResultsError

PROGRAM = Path(__file__).with_name("writer_program.py")
ROOT = Path(__file__).parents[2]


def writer(store, name, count, *options, wrap=(), **kwargs):
    command = [*wrap, sys.executable, str(PROGRAM), str(store.path), name, str(count), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, **kwargs)


def finished(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out.split()


def steps_of(store, name, table="c2b_gate"):
    sql = f"SELECT step, count(*) AS n FROM {table} WHERE run_id = $name GROUP BY step"
    return {row["step"]: row["n"] for row in store.query(sql, {"name": name}).to_pylist()}


def all_there(store, name, count):
    wanted = {f"s{i}": 2 for i in range(count)}
    assert steps_of(store, name) == wanted
    assert steps_of(store, name, "encoder_score") == wanted


def test_eight_writers_and_a_reader(store):
    """Every reading sees whole steps only, and the count never falls."""
    store.create()
    count = 6
    writers = [writer(store, f"w{i}", count) for i in range(8)]
    seen = [0]
    while any(w.poll() is None for w in writers):
        with store.reading() as read:
            gates = read("SELECT count(*) AS n FROM c2b_gate").to_pylist()[0]["n"]
            assert read("SELECT count(*) AS n FROM encoder_score").to_pylist()[0]["n"] == gates
        assert gates >= seen[-1] and gates % 2 == 0
        seen.append(gates)
        time.sleep(0.02)
    for i, process in enumerate(writers):
        finished(process)
        all_there(store, f"w{i}", count)


def test_a_first_write_of_many(store):
    """The file does not exist: exactly one process makes it."""
    writers = [writer(store, f"w{i}", 2) for i in range(5)]
    for i, process in enumerate(writers):
        finished(process)
        all_there(store, f"w{i}", 2)


def test_one_writer_is_slow_to_open(store):
    """A process that dawdles inside its connect works from no stale state: the others wait for it."""
    audit().store(store)
    slow = writer(store, "slow", 4, "--slow-open")
    others = [writer(store, f"w{i}", 6) for i in range(3)]
    for name, process, count in [("slow", slow, 4), *((f"w{i}", p, 6) for i, p in enumerate(others))]:
        finished(process)
        all_there(store, name, count)
    assert len(store.query("SELECT * FROM runs")) == 1


def traceable():
    """Whether strace is there and may trace (containers often forbid it)."""
    strace = shutil.which("strace")
    return strace is not None and subprocess.run([strace, "-o", os.devnull, "true"], check=False).returncode == 0


if traceable():

    def test_one_writer_is_delayed_between_opening_and_locking(store):
        """The kernel call with which DuckDB locks the existing file is held up, the moment that loses commits elsewhere."""
        audit().store(store)
        trace = store.path.with_name("trace.txt")
        inject = ["strace", "-f", "-o", str(trace), "-P", str(store.path), "-e", "trace=fcntl"]
        inject += ["-e", "inject=fcntl:delay_enter=400000"]
        slow = writer(store, "slow", 3, wrap=inject)
        others = [writer(store, f"w{i}", 8) for i in range(3)]
        for name, process, count in [("slow", slow, 3), *((f"w{i}", p, 8) for i, p in enumerate(others))]:
            finished(process)
            all_there(store, name, count)
        assert trace.read_text().count("DELAYED") >= 3


def test_threads_share_a_store(store):
    store.create()
    failures = []

    def work(name):
        try:
            for i in range(4):
                store.replace_step(name, "", f"s{i}", rows(i))
                assert len(steps_of(store, name)) == i + 1
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for i in range(4):
        all_there(store, f"t{i}", 4)


def test_killed_at_any_moment(store):
    """What a writer reported as committed is there after kill -9, whole; what it did not report is whole or absent."""
    dice = random.Random(5)
    store.create()
    for round_ in range(8):
        name = f"k{round_}"
        process = writer(store, name, 1000)
        process.stdout.readline()
        time.sleep(dice.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        reported = 1 + len(process.communicate()[0].split())
        found = steps_of(store, name)
        assert set(found.values()) == {2}
        assert {f"s{i}" for i in range(reported)} <= set(found)
        assert found == steps_of(store, name, "encoder_score")
        store.replace_step(name, "", "after", rows(1))


def test_disk_full(tmp_path):
    """No more may be written than a limit: a clear error, and everything reported before is there."""
    for limit in (1, 3, 4, 6):
        store = ResultsStore(tmp_path / str(limit) / "results.duckdb", timeout=20)

        def small_disk(limit=limit):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit << 20, limit << 20))

        process = writer(store, "full", 20, "--large", preexec_fn=small_disk)
        out, err = process.communicate(timeout=240)
        reported = len(out.split())
        assert process.returncode
        assert "ResultsError" in err and "free some disk space" in err, err
        if reported or store.path.exists():
            assert {f"s{i}" for i in range(reported)} <= set(steps_of(store, "full"))
        store.replace_step("after", "", "s", rows(1))
        assert steps_of(store, "after") == {"s": 2}


def test_waiting_is_bounded_and_names_the_holder(store):
    store.create()
    said = []
    with lock_file(store.path).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holders(lock_file(store.path)) == [os.getpid()]
        hasty = ResultsStore(store.path, timeout=2.3, say=said.append)
        with pytest.raises(ResultsBusy, match=f"results.duckdb is in use by process {os.getpid()}"):
            hasty.query("SELECT 1")
    assert said == [f"waiting for {store.path}: in use by process {os.getpid()}"]
    assert store.query("SELECT 1 AS a").to_pylist() == [{"a": 1}]


def test_readers_do_not_shut_each_other_out(store):
    audit().store(store)
    with store.reading() as first, ResultsStore(store.path, timeout=0.1).reading() as second:
        assert first("SELECT run_id FROM runs").to_pylist() == second("SELECT run_id FROM runs").to_pylist()


def test_a_writer_waits_for_another_program_that_has_the_file_open(store):
    """A person's own DuckDB knows nothing of our lock; theirs is waited for too, then named."""
    store.create()
    program = f"import duckdb; c = duckdb.connect({str(store.path)!r}); print('open', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    with pytest.raises(ResultsBusy, match=str(holder.pid)):
        ResultsStore(store.path, timeout=0.3).replace_step("r", "", "s", rows(1))
    timer = threading.Timer(0.5, lambda: holder.communicate("\n"))
    timer.start()
    store.replace_step("r", "", "s", rows(1))
    timer.join()
    assert steps_of(store, "r") == {"s": 2}


@pytest.mark.parametrize("offset", [0, 20, 4096, 4200, 8300])
def test_a_damaged_header_is_said_or_survived(store, offset):
    """A flipped stretch gives a clear error or the right rows (DuckDB keeps two headers), never wrong ones."""
    audit().store(store)
    wanted = store.query("SELECT * FROM c2b_group").to_pylist()
    data = bytearray(store.path.read_bytes())
    data[offset : offset + 16] = bytes(b ^ 0xFF for b in data[offset : offset + 16])
    store.path.write_bytes(bytes(data))
    try:
        assert store.query("SELECT * FROM c2b_group").to_pylist() == wanted
    except ResultsError as error:
        assert "rebuild" in str(error)


def test_damaged_blocks_are_said(store):
    """Flipping a byte in every block breaks the checksums: no rows come back, the error says what to do."""
    audit().store(store)
    data = bytearray(store.path.read_bytes())
    for offset in range(3 * 4096 + 200, len(data), 4096):
        data[offset] ^= 0xFF
    store.path.write_bytes(bytes(data))
    with pytest.raises(ResultsError, match="rebuild"):
        store.query("SELECT sum(hash(thumbnail)::HUGEINT) FROM c2b_example")
    with pytest.raises(ResultsError):
        store.replace_step(RUN, "", "s", {"c2b_gate": arrow_table("c2b_gate", [])})


def test_a_truncated_file_is_said(store):
    audit().store(store)
    data = store.path.read_bytes()
    for size in (1, 4096, 100_000, len(data) // 2):
        store.path.write_bytes(data[:size])
        with pytest.raises(ResultsError):
            store.query("SELECT sum(hash(thumbnail)::HUGEINT) FROM c2b_example, c2b_group, c2b_caption")
