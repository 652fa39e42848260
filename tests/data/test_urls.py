"""Lists of links as a source: real files, a real server on this machine."""

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from runner.data.sources import open_source, urls
from runner.data.sources.urls import Kept
from runner.errors import DataError


def png(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 90, 60)).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """``/7.png`` is picture 7, anything else is not there."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.seen.append(self.path)
        name = self.path.strip("/").removesuffix(".png")
        data = png(int(name)) if name.isdecimal() and int(name) not in self.server.dead else b""
        self.send_response(200 if data else 404)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("RUNNER_ALLOW_ADDRESSES", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RUNNER_CACHE", raising=False)
    monkeypatch.setattr(urls, "_failed", {})
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.seen, server.dead = True, [], set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def link(server, number):
    return f"http://127.0.0.1:{server.server_port}/{number}.png"


def listed(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return {"urls": str(path), "name": "list"}


def read(source):
    return [(r.uri, r.caption, r.data) for r in source], source.problems.counts()


# --- files -----------------------------------------------------------------------------------------------------------


def in_every_format(folder, rows):
    """The same rows (url, caption) as each kind of file, with what the spec must say of it."""
    table = pa.table({"URL": [u for u, _ in rows], "TEXT": [c for _, c in rows], "width": list(range(len(rows)))})
    pq.write_table(table, folder / "laion.parquet")
    (folder / "cc12m.tsv").write_text("".join(f"{u}\t{c}\n" for u, c in rows))
    (folder / "header.tsv").write_text("caption\turl\n" + "".join(f"{c}\t{u}\n" for u, c in rows))
    quoted = "".join('{},"{}"\n'.format(u, c.replace('"', '""')) for u, c in rows)
    (folder / "comma.csv").write_text("url,caption\n" + quoted)
    (folder / "lines.jsonl").write_text("".join(json.dumps({"image": u, "words": c, "n": 1}) + "\n" for u, c in rows))
    return {
        "laion.parquet": {}, "cc12m.tsv": {"columns": ["url", "caption"]}, "header.tsv": {}, "comma.csv": {},
        "lines.jsonl": {"url_column": "image", "caption_column": "words"},
    }  # fmt: skip


def test_every_kind_of_file_gives_the_same_records(server, tmp_path):
    rows = [(link(server, n), f'a "quoted, word {n}') for n in (3, 1, 2)]
    expected = [(u, c, png(n)) for (u, c), n in sorted(zip(rows, (3, 1, 2), strict=True))]
    for name, options in in_every_format(tmp_path, rows).items():
        assert read(open_source({"urls": str(tmp_path / name), **options})) == (expected, {}), name
    assert len(server.seen) == 3
    extra = next(iter(open_source({"urls": str(tmp_path / "laion.parquet")}))).metadata
    assert extra == {"width": "1"}


def test_plain_text_is_one_link_a_line(server, tmp_path):
    found, problems = read(open_source(listed(tmp_path / "a.txt", link(server, 1), "", f"  {link(server, 2)} ")))
    assert [u for u, _, _ in found] == [link(server, 1), link(server, 2)] and problems == {}


def test_several_files_are_one_list_whatever_their_order(server, tmp_path):
    listed(tmp_path / "a.csv", "url,caption", f"{link(server, 5)},five", f"{link(server, 1)},one")
    listed(tmp_path / "b.csv", "url,caption,more", f"{link(server, 5)},five again,x", f"{link(server, 2)},two,y")
    source = open_source({"urls": str(tmp_path / "*.csv")})
    found, problems = read(source)
    assert [(u, c) for u, c, _ in found] == [
        (link(server, 1), "one"),
        (link(server, 2), "two"),
        (link(server, 5), "five"),
    ]
    assert problems == {"repeated_url": 1}
    both = [str(tmp_path / "b.csv"), str(tmp_path / "a.csv")]
    assert open_source({"urls": both}).fingerprint() == source.fingerprint()


def test_rows_that_cannot_be_used_are_counted(server, tmp_path):
    spec = listed(tmp_path / "a.csv", "url,caption", f"{link(server, 1)},one", ",nothing", "a,b,c,d", "nonsense,x")
    assert read(open_source(spec)) == (
        [(link(server, 1), "one", png(1))],
        {"bad_row": 1, "no_url": 1, "refused_scheme": 1},
    )
    lines = listed(
        tmp_path / "b.jsonl", json.dumps({"url": link(server, 1)}), "[1]", "{broken", json.dumps({"url": None})
    )
    assert read(open_source(lines)) == ([(link(server, 1), None, png(1))], {"bad_row": 2, "no_url": 1})


def test_bytes_that_are_no_text_do_not_cost_the_list(server, tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"url\tcaption\n%s\tcaf\xe9\n" % link(server, 1).encode())
    assert read(open_source({"urls": str(tmp_path / "a.tsv")}))[0] == [(link(server, 1), "caf\ufffd", png(1))]


def test_a_damaged_file_is_reported_and_the_others_are_read(server, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    pq.write_table(pa.table({"url": [link(server, 1), None]}), tmp_path / "b.parquet")
    found, problems = read(open_source({"urls": str(tmp_path / "*.parquet")}))
    assert len(found) == 1 and problems == {"damaged_file": 1, "no_url": 1}


@pytest.mark.parametrize(
    ("name", "text", "options", "said"),
    [
        ("a.csv", "a,b\n1,2\n", {}, "it has a, b"),
        ("a.tsv", "http://example.org/1.png\tone\n", {}, r"columns: \[url, caption\]"),
        ("a.csv", "url,caption\nx,y\n", {"caption_column": "text"}, "no column 'text'"),
        ("a.docx", "x", {}, "lists of links are"),
    ],
)
def test_a_file_that_is_no_list_of_links_says_why(tmp_path, name, text, options, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        open_source({"urls": str(tmp_path / name), **options}).shards()
    assert __import__("re").search(said, str(error.value))


# --- fetching and keeping --------------------------------------------------------------------------------------------


def test_dead_links_are_counted_and_nothing_is_asked_twice_in_a_run(server, tmp_path):
    server.dead = {2, 4}
    spec = listed(tmp_path / "a.txt", *(link(server, n) for n in range(1, 6)))
    source = open_source(spec)
    assert [s.records for s in source.shards()] == [5] and server.seen == []
    found, problems = read(source)
    assert [d for _, _, d in found] == [png(n) for n in (1, 3, 5)] and problems == {"http_404": 2}
    assert read(source) == read(open_source(spec)) == (found, problems)
    assert len(server.seen) == 5
    urls._failed.clear()  # another process
    server.dead = set()
    assert len(read(open_source(spec))[0]) == 5 and len(server.seen) == 7


def test_what_was_fetched_is_read_without_a_network(server, tmp_path):
    spec = listed(tmp_path / "a.txt", link(server, 1), link(server, 2)) | {"cache": str(tmp_path / "kept")}
    found = read(open_source(spec))[0]
    server.shutdown()
    server.server_close()
    source = open_source(spec)
    assert read(source) == (found, {})
    assert dict(source.read_many([link(server, 2)])) == {link(server, 2): png(2)}
    kept = [p for p in (tmp_path / "kept").rglob("*") if p.is_file()]
    assert sorted(p.read_bytes() for p in kept) == sorted(png(n) for n in (1, 2))
    assert open_source(source.spec).fingerprint() == source.fingerprint()


def test_the_default_cache_is_the_users(server, tmp_path):
    read(open_source(listed(tmp_path / "a.txt", link(server, 1))))
    assert len([p for p in (tmp_path / "home/vlm-runner/downloads").rglob("*") if p.is_file()]) == 1


def test_a_kept_file_that_was_damaged_is_fetched_again(server, tmp_path):
    spec = listed(tmp_path / "a.txt", link(server, 1)) | {"cache": str(tmp_path / "kept")}
    read(open_source(spec))
    for path in (tmp_path / "kept").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert read(open_source(spec))[0] == [(link(server, 1), None, png(1))] and len(server.seen) == 2


def test_pictures_are_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    kept = Kept(tmp_path)
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        kept.put("http://x/1", png(1))
    assert kept.get("http://x/1") is None and not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_random_access_fetches_what_is_gone_and_names_what_is_dead(server, tmp_path):
    source = open_source(listed(tmp_path / "a.txt", link(server, 1), link(server, 2)))
    assert dict(source.read_many([link(server, 2)])) == {link(server, 2): png(2)}
    server.dead = {1}
    with pytest.raises(DataError, match="http_404"):
        list(source.read_many([link(server, 1)]))
    with pytest.raises(DataError, match="no record"):
        list(source.read_many(["http://127.0.0.1/not-in-the-list.png"]))


@pytest.mark.parametrize("name", ["sha256", "md5"])
def test_hashes_in_the_list_are_compared(server, tmp_path, name):
    good = hashlib.new(name, png(1)).hexdigest().upper()
    rows = {"url": [link(server, n) for n in (1, 2, 3)], name: [good, good, None]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    found, problems = read(open_source({"urls": str(tmp_path / "a.parquet"), "cache": str(tmp_path / "kept")}))
    assert [u for u, _, _ in found] == [link(server, 1), link(server, 3)] and problems == {f"{name}_mismatch": 1}
    assert len([p for p in (tmp_path / "kept").rglob("*") if p.is_file()]) == 2


def test_a_spec_cannot_open_what_is_not_public(server, tmp_path, monkeypatch):
    monkeypatch.delenv("RUNNER_ALLOW_ADDRESSES")
    spec = listed(tmp_path / "a.txt", link(server, 1))
    assert read(open_source(spec)) == ([], {"refused_address": 1}) and server.seen == []
    for field in ("allow_addresses", "allowed"):
        with pytest.raises(DataError, match="Extra inputs"):
            open_source(spec | {field: ["127.0.0.1"]})
    monkeypatch.setenv("RUNNER_ALLOW_ADDRESSES", "everything")
    with pytest.raises(DataError, match="RUNNER_ALLOW_ADDRESSES"):
        open_source(spec)


def test_a_machine_without_a_network_stops_instead_of_keeping_an_empty_index(server, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr("socket.getaddrinfo", fail)
    spec = listed(tmp_path / "a.txt", *(f"http://host{n}.example/1.png" for n in range(3)))
    with pytest.raises(DataError, match="not one of 3 servers"):
        list(open_source(spec))
    few = listed(tmp_path / "b.txt", "http://host.example/1.png", "ftp://host.example/2.png")
    assert read(open_source(few)) == ([], {"dns_failure": 1, "refused_scheme": 1})


def test_what_strangers_write_does_not_reach_the_terminal_as_it_is(server, tmp_path):
    pq.write_table(pa.table({"url": ["http://a\x1b[2Jb/"]}), tmp_path / "a.parquet")
    source = open_source({"urls": str(tmp_path / "a.parquet")})
    assert read(source)[1] == {"bad_url": 1} and all((p.where + p.detail).isprintable() for p in source.problems)


def test_patience_and_haste_make_no_other_source(server, tmp_path):
    spec = listed(tmp_path / "a.txt", link(server, 1))
    assert open_source(spec | {"timeout": 5, "concurrency": 2}).spec == open_source(spec).spec


# --- shards ----------------------------------------------------------------------------------------------------------


def test_shards_are_runs_that_a_further_link_hardly_changes(tmp_path):
    rows = [f"http://example.org/{n:05d}.png" for n in range(4000)]
    before = open_source(listed(tmp_path / "a.txt", *rows)).shards()
    after = open_source(listed(tmp_path / "a.txt", *rows, "http://example.org/02000a.png")).shards()
    assert sum(s.records for s in before) == 4000 and 4 <= len(before) <= 20
    assert [s.name for s in before] == sorted(s.name for s in before)
    changed = {(s.name, s.fingerprint) for s in after} - {(s.name, s.fingerprint) for s in before}
    assert 1 <= len(changed) <= 2


def test_the_fingerprint_follows_captions_and_limit_counts_links(server, tmp_path):
    first = listed(tmp_path / "a.csv", "url,caption", f"{link(server, 2)},two", f"{link(server, 1)},one")
    prints = {open_source(first).fingerprint()}
    assert [u for u, _, _ in read(open_source(first | {"limit": 1}))[0]] == [link(server, 2)]
    prints.add(open_source(first | {"limit": 1}).fingerprint())
    listed(tmp_path / "a.csv", "url,caption", f"{link(server, 2)},zwei", f"{link(server, 1)},one")
    prints.add(open_source(first).fingerprint())
    assert len(prints) == 3


def test_links_are_fetched_side_by_side_but_no_more_than_asked(tmp_path, monkeypatch):
    together, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(4)

    def fetch(self, url):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        gate.wait(5)
        with lock:
            together -= 1
        return png(1)

    monkeypatch.setattr(urls.Fetcher, "fetch", fetch)
    spec = listed(tmp_path / "a.txt", *(f"http://example.org/{n}.png" for n in range(16)))
    source = open_source(spec | {"concurrency": 4, "cache": str(tmp_path / "kept")})
    assert len(list(source)) == 16 and most == 4
