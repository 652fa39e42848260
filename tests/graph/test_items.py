"""The item cache: durable, shared, and never giving back what was not put in."""

import multiprocessing
import sqlite3
import threading

import pytest

from runner.errors import ResultsBusy
from runner.graph.items import SqliteItems
from runner.graph.locks import FileLock, is_held


def test_items_outlive_the_process_that_put_them(tmp_path):
    SqliteItems(tmp_path / "items.sqlite").put("k", b"value")  # not closed: as if killed
    assert SqliteItems(tmp_path / "items.sqlite").get("k") == b"value"
    assert SqliteItems(tmp_path / "items.sqlite").get("other") is None


def test_several_items_are_stored_at_once(tmp_path):
    items = SqliteItems(tmp_path / "items.sqlite")
    items.put_many({"a": b"1", "b": b"2"})
    items.put_many({})
    assert [SqliteItems(tmp_path / "items.sqlite").get(key) for key in "abc"] == [b"1", b"2", None]


def test_threads_share_one_cache(tmp_path):
    items = SqliteItems(tmp_path / "items.sqlite")

    def fill(number):
        for i in range(50):
            items.put(f"{number}/{i}", f"{number}/{i}".encode())

    threads = [threading.Thread(target=fill, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(items.get(f"{n}/{i}") == f"{n}/{i}".encode() for n in range(8) for i in range(50))


def fill_from_process(path, number):
    items = SqliteItems(path)
    for i in range(50):
        items.put(f"{number}/{i}", b"v")


def test_processes_share_one_cache(tmp_path):
    path = tmp_path / "items.sqlite"
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=fill_from_process, args=(path, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0, 0, 0]
    items = SqliteItems(path)
    assert all(items.get(f"{n}/{i}") == b"v" for n in range(3) for i in range(50))


def test_a_damaged_value_counts_as_missing(tmp_path):
    items = SqliteItems(tmp_path / "items.sqlite")
    items.put("k", b"12345")
    with sqlite3.connect(tmp_path / "items.sqlite") as connection:
        connection.execute("UPDATE items SET value = ?", (b"12346",))
    assert items.get("k") is None
    items.put("k", b"12345")
    assert items.get("k") == b"12345"


def test_a_value_under_another_key_counts_as_missing(tmp_path):
    items = SqliteItems(tmp_path / "items.sqlite")
    items.put("a", b"1")
    with sqlite3.connect(tmp_path / "items.sqlite") as connection:
        connection.execute("UPDATE items SET key = 'b'")
    assert items.get("b") is None


def test_a_file_that_is_no_database_is_moved_aside(tmp_path):
    path = tmp_path / "items.sqlite"
    path.write_bytes(b"not a database at all, " * 100)
    items = SqliteItems(path)
    items.put("k", b"v")
    assert items.get("k") == b"v"
    assert len(list(tmp_path.glob("items.sqlite.damaged-*"))) == 1


def test_a_lock_names_its_holder_and_can_be_taken_again(tmp_path):
    first, second = FileLock(tmp_path / "lock", "run r"), FileLock(tmp_path / "lock", "run r")
    with first:
        assert is_held(first.path)
        with pytest.raises(ResultsBusy, match="run r is in use by process"):
            second.acquire()
    assert not is_held(first.path)
    with second:
        assert not first.try_acquire()


def test_a_lock_whose_name_was_removed_is_not_taken_for_the_new_one(tmp_path):
    old, new = FileLock(tmp_path / "lock", "x"), FileLock(tmp_path / "lock", "x")
    assert old.try_acquire()
    old.path.unlink()
    assert new.try_acquire()
    old.release()
    assert not FileLock(tmp_path / "lock", "x").try_acquire()
    new.release(remove=True)
    assert not new.path.exists()
