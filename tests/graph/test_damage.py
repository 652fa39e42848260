"""One changed byte anywhere on disk: the thing is made again or a clear error is raised; never a wrong value."""

import multiprocessing
import random
import sqlite3

import duckdb
import pytest
from synthetic import sealed_rows

from results.store import ResultsStore
from runner.errors import RunnerError
from runner.graph.items import SqliteItems
from runner.models.chat.cache import ReplyCache
from runner.models.chat.wire import RawReply

REPLIES = {f"key-{i}": RawReply(f"reply number {i} " * 20, "stop", "model", i, 2 * i) for i in range(40)}


def flipped(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << (offset % 8)
    path.write_bytes(data)


def read_back(open_cache, expected):
    """Values that came back although they are not what was put in."""
    try:
        cache = open_cache()
        found = {key: cache.get(key) for key in expected}
    except RunnerError as error:
        assert "cannot be used" in str(error)
        return {}
    return {key: value for key, value in found.items() if value is not None and value != expected[key]}


@pytest.mark.parametrize("log", [False, True], ids=["file", "write-ahead log"])
def test_a_flipped_byte_in_the_reply_cache_changes_no_reply(tmp_path, log):
    origin = tmp_path / "origin.sqlite"
    cache = ReplyCache(origin)
    for key, reply in REPLIES.items():
        cache.put(key, reply)
    if not log:
        cache.close()
    _try_every_place(tmp_path, origin, log, lambda path: ReplyCache(path), REPLIES)


@pytest.mark.parametrize("log", [False, True], ids=["file", "write-ahead log"])
def test_a_flipped_byte_in_the_item_cache_changes_no_item(tmp_path, log):
    origin = tmp_path / "origin.sqlite"
    items, expected = SqliteItems(origin), {f"key-{i}": bytes([i]) * 300 for i in range(40)}
    for key, value in expected.items():
        items.put(key, value)
    if not log:
        items.close()
    _try_every_place(tmp_path, origin, log, lambda path: SqliteItems(path), expected)


def _try_every_place(tmp_path, origin, log, opened, expected):
    dice = random.Random(3)
    parts = [origin] + ([origin.with_name(origin.name + "-wal")] if log else [])
    victim = parts[-1]
    size = victim.stat().st_size
    assert size > 4096
    if not log:
        with sqlite3.connect(origin) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for number, offset in enumerate(sorted({*range(0, 100, 3), *(dice.randrange(size) for _ in range(150))})):
        copy = tmp_path / f"copy-{number}.sqlite"
        for part in parts:
            copy.with_name(part.name.replace("origin.sqlite", copy.name)).write_bytes(part.read_bytes())
        flipped(copy.with_name(victim.name.replace("origin.sqlite", copy.name)), offset)
        assert read_back(lambda path=copy: opened(path), expected) == {}, offset


def test_a_damaged_reply_is_replaced_by_the_next(tmp_path):
    path = tmp_path / "replies.sqlite"
    cache = ReplyCache(path)
    cache.put("key-1", REPLIES["key-1"])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sealed_replies SET text = replace(text, 'reply', 'rePly')")
    assert cache.get("key-1") is None
    cache.put("key-1", REPLIES["key-1"])
    cache.put("key-1", REPLIES["key-2"])
    assert cache.get("key-1") == REPLIES["key-1"]


def _query(path, answer):
    """In a process of its own: a damaged file may take the database library down."""
    try:
        answer.send(sealed_rows(ResultsStore(path)))
    except RunnerError as error:
        answer.send(str(error))


def asked(path):
    """The rows, an error's text, or 'the process died'."""
    context = multiprocessing.get_context("forkserver")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_query, args=(path, send))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        return "the process died"
    finally:
        process.join()


@pytest.mark.parametrize("flips", [12, pytest.param(25, marks=pytest.mark.large)])
@pytest.mark.parametrize("log", [False, True], ids=["file", "write-ahead log"])
def test_a_flipped_byte_in_the_results_changes_no_row(tmp_path, log, flips):
    origin = tmp_path / "origin.duckdb"
    store = ResultsStore(origin)
    store.create()
    with duckdb.connect(str(origin)) as connection:
        if log:
            connection.execute("PRAGMA disable_checkpoint_on_shutdown")
            connection.execute("PRAGMA wal_autocheckpoint='1GB'")
        connection.execute(
            "INSERT INTO c2b_gate SELECT 'r', '', 's', 't' || i, 100, i, i / 100, 0, 1, 0.1, NULL FROM range(60) r(i)"
        )
    parts = [part for part in tmp_path.iterdir() if part.name.startswith("origin") and "lock" not in part.name]
    victim = next(part for part in parts if part.suffix == (".wal" if log else ".duckdb"))
    expected = sealed_rows(store) if not log else None
    dice, size = random.Random(5), victim.stat().st_size
    used = [i for i, byte in enumerate(victim.read_bytes()) if byte]
    wrong = []
    for number, offset in enumerate(dice.sample(used, flips)):
        assert offset < size
        folder = tmp_path / f"copy-{number}"
        folder.mkdir()
        for part in parts:
            (folder / part.name).write_bytes(part.read_bytes())
        flipped(folder / victim.name, offset)
        found = asked(folder / "origin.duckdb")
        if isinstance(found, list) and found != (expected or sealed_rows(store)):
            wrong.append((offset, found))
        if isinstance(found, str):
            assert "origin" in found or found == "the process died", found
    assert wrong == []
