"""The reply cache keeps what it was given: across kills, processes and runs; and its keys tell apart what differs."""

from __future__ import annotations

import dataclasses
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import DataError
from runner.models.base import ImagePart, Message
from runner.models.chat.cache import ReplyCache
from runner.models.chat.keys import content_sha256, draw_seed, reply_key
from runner.models.chat.wire import Payload, RawReply

REPLY = RawReply("hello \x00 \u2603", "stop", "tiny", 3, None)

# Writes replies until killed, and says after each which one is safe.
WRITER = """
import sys
from pathlib import Path
from runner.models.chat.cache import ReplyCache
from runner.models.chat.wire import RawReply
cache = ReplyCache(Path(sys.argv[1]))
for i in range(int(sys.argv[3])):
    key = f"{sys.argv[2]}-{i}"
    cache.put(key, RawReply("text of " + key, "stop"))
    print(i, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_what_was_put_is_there_also_for_others(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "replies.sqlite"
    one, other = ReplyCache(path), ReplyCache(path)
    assert one.get("k") is None
    one.put("k", REPLY)
    assert one.get("k") == other.get("k") == REPLY
    one.put("k", dataclasses.replace(REPLY, text="another"))
    assert other.get("k") == REPLY
    one.close()
    assert one.get("k") == REPLY


def test_kill_9_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    for attempt in range(4):
        process = writer(path, f"w{attempt}", 10**9)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(attempt).uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().split()
        process.wait()
        last = int(said[-1]) if said else 0
        cache = ReplyCache(path)
        assert all(cache.get(f"w{attempt}-{i}") == RawReply(f"text of w{attempt}-{i}", "stop") for i in range(last + 1))
        cache.close()


def test_many_processes_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    writers = [writer(path, f"p{i}", 200) for i in range(4)]
    assert [process.communicate()[0] is not None and process.wait() for process in writers] == [0] * 4
    cache = ReplyCache(path)
    assert all(cache.get(f"p{i}-{j}") is not None for i in range(4) for j in range(200))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(DataError, match=r"replies\.sqlite cannot be used") as error:
        ReplyCache(path).get("k")
    assert "move it aside" in str(error.value)


def test_a_full_disk_is_an_error_not_a_silence(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "replies.sqlite")
    cache.put("small", REPLY)
    connection = cache._connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DataError, match="full"):
        cache.put("large", dataclasses.replace(REPLY, text="x" * 1_000_000))
    assert cache.get("small") == REPLY and cache.get("large") is None


def test_writes_survive_a_killed_process_by_the_log(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "replies.sqlite")
    cache.put("k", REPLY)
    with sqlite3.connect(tmp_path / "replies.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


IDENTITY = {"provider": "openai", "model": "tiny"}
BASE = Payload((Message("user", ("look", ImagePart(b"jpeg"), "here")),), {"type": "object"}, "reply", 0.5, 100)


def key(payload: Payload = BASE, seed: int = 0, sample: int = 0, **identity: str) -> str:
    return reply_key(IDENTITY | identity, payload, seed, sample)


def test_keys_tell_apart_whatever_can_change_a_reply() -> None:
    changed = [
        dataclasses.replace(BASE, messages=(Message("system", ("look", ImagePart(b"jpeg"), "here")),)),
        dataclasses.replace(BASE, messages=(Message("user", ("look", ImagePart(b"jpeg2"), "here")),)),
        dataclasses.replace(BASE, messages=(Message("user", ("look", "here", ImagePart(b"jpeg"))),)),
        dataclasses.replace(BASE, schema={"type": "array"}),
        dataclasses.replace(BASE, schema=None),
        dataclasses.replace(BASE, schema_name="other"),
        dataclasses.replace(BASE, temperature=0.6),
        dataclasses.replace(BASE, max_tokens=101),
    ]
    keys = [key(), *map(key, changed), key(seed=1), key(sample=1), key(model="other"), key(provider="vllm")]
    assert len(set(keys)) == len(keys)
    assert all(len(k) == 64 for k in keys)


def test_the_order_of_schema_keys_changes_nothing() -> None:
    one = dataclasses.replace(BASE, schema={"type": "object", "required": ["a"]})
    other = dataclasses.replace(BASE, schema={"required": ["a"], "type": "object"})
    assert key(one) == key(other)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_draw_seeds_fit_every_server(seed: int, sample: int) -> None:
    assert 0 <= draw_seed(seed, sample) < 2**31
    assert draw_seed(seed, sample) == draw_seed(seed, sample)
    assert draw_seed(seed, sample) != draw_seed(seed, sample + 1)


def test_a_folder_is_known_by_what_it_holds(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "sub" / "weights").write_bytes(b"abc")
    assert content_sha256(tmp_path / "one") == content_sha256(tmp_path / "two")
    (tmp_path / "two" / "sub" / "weights").write_bytes(b"abd")
    assert content_sha256(tmp_path / "one") != content_sha256(tmp_path / "two")
    assert content_sha256(tmp_path / "one" / "sub" / "weights").startswith("ba7816bf")
