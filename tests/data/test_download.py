"""Links of strangers against a real server on this machine, which only tests may reach."""

import gzip
import io
import ipaddress
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.data.sources import download
from runner.data.sources.addresses import is_allowed, is_public, networks
from runner.data.sources.download import DownloadFailed, Fetcher, image_kind, parse
from runner.data.sources.robots import opted_out


def encoded(kind="PNG", side=8):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (10, 120, 60)).save(buffer, kind)
    return buffer.getvalue()


PNG = encoded()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, data=b"", status=200, **headers):
        self.send_response(status)
        for name, value in {"Content_Length": str(len(data)), "Content_Type": "image/png", **headers}.items():
            for one in value if isinstance(value, list) else [value]:
                self.send_header(name.replace("_", "-"), one)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        route = self.path.partition("?")[0].strip("/").partition("/")
        try:
            getattr(self, "on_" + route[0], self.on_missing)(route[2])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def on_missing(self, rest):
        self.answer(b"no", 404)

    def on_png(self, rest):
        self.answer(PNG)

    def on_hop(self, rest):
        left = int(rest)
        self.answer(status=302, Location=f"/hop/{left - 1}" if left > 1 else "/png")

    def on_to(self, rest):
        self.answer(status=301, Location=unquote(rest))

    def on_nowhere(self, rest):
        self.answer(status=302)

    def on_html(self, rest):
        self.answer(b"<html><img src=x></html>")

    def on_declared(self, rest):
        self.answer(b"", Content_Length=str(10**9))

    def on_endless(self, rest):
        self.send_response(200)
        self.end_headers()
        for _ in range(10**6):
            self.wfile.write(PNG[:8] + bytes(65536))

    def on_chunked(self, rest):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(PNG), 10):
            piece = PNG[start : start + 10]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if rest != "cut":
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def on_short(self, rest):
        self.answer(PNG, Content_Length=str(len(PNG) + 50))
        self.close_connection = True

    def on_drip(self, rest):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(200):
            self.wfile.write(b"\x89")
            time.sleep(0.05)

    def on_headers(self, rest):
        for _ in range(200):
            self.wfile.write(b"H")
            self.wfile.flush()
            time.sleep(0.05)

    def on_silent(self, rest):
        time.sleep(3)
        self.close_connection = True

    def on_bomb(self, rest):
        self.answer(gzip.compress(bytes(10**7)), Content_Encoding="gzip")

    def on_robots(self, rest):
        self.answer(PNG, X_Robots_Tag=["all", "otherbot: noai", rest.replace("_", " ")])

    def on_garbage(self, rest):
        self.wfile.write(b"\0\1\2 this is no HTTP\r\n\r\n")
        self.close_connection = True


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def link(server, path, host="127.0.0.1"):
    return f"http://{host}:{server.server_port}/{path}"


LOOPBACK = networks(["127.0.0.1"])


def fetch(url, **options):
    return Fetcher(**{"timeout": 5.0, "max_bytes": 10**6, "allowed": LOOPBACK, **options}).fetch(url)


def reason(url, **options):
    with pytest.raises(DownloadFailed) as error:
        fetch(url, **options)
    return error.value.reason


# --- what is fetched -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["png", "hop/5", "chunked", "png?a=b%20c&d=\u00e9", "to//png", "png#part"])
def test_a_picture_is_fetched(server, path):
    assert fetch(link(server, path)) == PNG


def test_the_request_says_who_asks_and_asks_for_plain_bytes(server):
    fetch(link(server, "png"))
    _, headers = server.seen[-1]
    assert headers["User-Agent"].startswith("vlm-runner/") and headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("missing", "http_404"), ("nowhere", "http_302"), ("hop/6", "too_many_redirects"), ("hop/10", "too_many_redirects"),
        ("html", "not_an_image"), ("declared", "too_large"), ("endless", "too_large"), ("short", "truncated_download"),
        ("chunked/cut", "truncated_download"), ("bomb", "encoded_body"), ("garbage", "bad_response"),
        ("robots/noai", "opted_out"), ("robots/vlm-runner:_noindex", "opted_out"),
        ("to/http://10.0.0.1/x.png", "refused_address"), ("to/file:///etc/passwd", "refused_scheme"),
        ("to/ftp://127.0.0.1/x", "refused_scheme"), ("to/http://u:p@127.0.0.1/x", "credentials_in_url"),
    ],
)  # fmt: skip
def test_what_is_no_picture_has_a_reason(server, path, expected):
    assert reason(link(server, path)) == expected


@pytest.mark.parametrize("path", ["drip", "headers", "silent", "to/drip"])
def test_the_time_holds_for_the_whole_link(server, path):
    started = time.monotonic()
    assert reason(link(server, path.replace("to/", "to//")), timeout=0.6) == "timeout"
    assert time.monotonic() - started < 1.5


def test_an_endless_body_is_left_at_the_limit(server):
    started = time.monotonic()
    assert reason(link(server, "endless"), max_bytes=200_000) == "too_large"
    assert time.monotonic() - started < 2


def test_a_closed_port_and_a_server_without_tls_have_reasons(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert reason(f"http://127.0.0.1:{port}/x.png") == "connection_failed"
    assert reason(link(server, "png").replace("http:", "https:")) == "tls_failure"


def test_a_certificate_must_fit_the_name_in_the_link_not_the_address(monkeypatch):
    names = []
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("pictures.example").configure_cert(context)
    context.sni_callback = lambda sock, name, ctx: names.append(name)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.seen = True, []
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://pictures.example:{server.server_port}/png"
        assert reason(url) == "tls_failure" and server.seen == []  # nobody vouches for it
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        monkeypatch.setattr(download, "_tls", lambda: trusting)
        assert fetch(url) == PNG
        assert reason(url.replace("pictures", "other")) == "tls_failure"
        server.shutdown()
    assert names == ["pictures.example", "pictures.example", "other.example"] and len(server.seen) == 1


# --- where a link may lead -------------------------------------------------------------------------------------------

HOSTILE = [
    ("file:///etc/passwd", "refused_scheme"), ("data:image/png;base64,AAAA", "refused_scheme"),
    ("ftp://example.org/a.png", "refused_scheme"), ("gopher://127.0.0.1:70/x", "refused_scheme"),
    ("javascript:alert(1)", "refused_scheme"), ("//127.0.0.1/x", "refused_scheme"), ("127.0.0.1/x", "refused_scheme"),
    ("", "bad_url"), ("http://", "bad_url"), ("http:///x", "bad_url"), ("http://[::1", "bad_url"),
    ("http://127.0.0.1:99999/", "bad_url"), ("http://a\r\nHost: b/", "bad_url"), ("http://a/\x00", "bad_url"),
    ("http://" + "a" * 9000, "bad_url"), ("http://" + "a" * 64 + ".org/", "bad_url"),
    ("http://127.0.0.1/", "refused_address"), ("http://[::1]/", "refused_address"),
    ("http://0x7f000001/", "refused_address"), ("http://2130706433/", "refused_address"),
    ("http://0177.0.0.1/", "refused_address"), ("http://127.1/", "refused_address"), ("http://0/", "refused_address"),
    ("http://169.254.169.254/latest/meta-data/", "refused_address"), ("http://localhost/", "refused_address"),
    ("http://localhost:8080/", "refused_address"), ("https://127.0.0.1/", "refused_address"),
    ("http://[::ffff:127.0.0.1]/", "refused_address"), ("http://[::ffff:7f00:1]/", "refused_address"),
    ("http://[64:ff9b::7f00:1]/", "refused_address"), ("http://[2002:7f00:1::]/", "refused_address"),
    ("http://[fe80::1]/", "refused_address"), ("http://[fd00::1]/", "refused_address"),
    ("http://10.1.2.3/", "refused_address"), ("http://192.168.0.1/", "refused_address"),
    ("http://172.31.255.255/", "refused_address"), ("http://100.64.0.1/", "refused_address"),
    ("http://224.0.0.1/", "refused_address"), ("http://255.255.255.255/", "refused_address"),
    ("http://\u2460\u2461\u2466.0.0.1/", "refused_address"), ("http://\uff11\uff12\uff17.0.0.1/", "refused_address"),
    ("http://user:pass@example.org/", "credentials_in_url"), ("http://user@127.0.0.1/", "credentials_in_url"),
    ("http://example.org\\@127.0.0.1/", "credentials_in_url"), ("http://example.org:25/", "refused_port"),
    ("http://example.org:22/", "refused_port"), ("http://example.org:0/", "refused_port"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "expected"), HOSTILE)
def test_hostile_links_are_refused_before_anything_is_sent(url, expected, monkeypatch):
    def connect(self, place):
        raise AssertionError(f"connected to {place}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert reason(url, allowed=()) == expected


@pytest.mark.parametrize("where", ["http://127.0.0.1", "http://[::1]", "http://localhost", "http://2130706433"])
def test_a_redirect_is_judged_like_a_link(server, where):
    # The first hop is reached under another address of this machine; the second is not allowed.
    allowed = networks(["127.0.0.2"])
    port = server.server_port
    with ThreadingHTTPServer(("127.0.0.2", 0), Handler) as first:
        first.daemon_threads, first.seen = True, []
        threading.Thread(target=first.serve_forever, daemon=True).start()
        before = len(server.seen)
        url = f"http://127.0.0.2:{first.server_port}/to/{where}:{port}/png"
        assert reason(url, allowed=allowed) == "refused_address"
        assert len(first.seen) == 1 and len(server.seen) == before
        first.shutdown()


def test_the_connection_goes_to_the_address_that_was_judged(server, monkeypatch):
    """A name server that answers differently the second time is asked only once."""
    answers = iter(["127.0.0.1", "10.0.0.1", "10.0.0.1"])
    real = socket.getaddrinfo

    def rebinding(host, *args, **kwargs):
        return real(next(answers) if host == "rebind.example" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch(link(server, "png", "rebind.example")) == PNG
    assert server.seen[-1][1]["Host"] == f"rebind.example:{server.server_port}"
    assert next(answers) == "10.0.0.1"


def test_one_private_address_among_public_ones_spoils_the_name(monkeypatch):
    found = [(socket.AF_INET, 1, 6, "", (a, 0)) for a in ("93.184.216.34", "10.0.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
    assert reason("http://mixed.example/x.png") == "refused_address"


def test_a_name_server_that_does_not_answer_costs_no_more_than_the_time(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(2))
    started = time.monotonic()
    assert reason("http://slow.example/x.png", timeout=0.3) == "timeout"
    assert time.monotonic() - started < 1


def test_a_name_that_does_not_exist(monkeypatch):
    def fail(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(DownloadFailed) as error:
        fetch("http://nowhere.example/x.png")
    assert error.value.reason == "dns_failure" and not error.value.reached


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert fetch(link(server, "png")) == PNG


PUBLIC = ["8.8.8.8", "93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
NOT_PUBLIC = [
    "0.0.0.0", "127.0.0.1", "127.255.255.254", "10.0.0.0", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1",
    "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::808:808", "64:ff9b:1::1", "2001::1", "2001:db8::1", "2002:808:808::",
    "3fff::1", "fc00::1", "fe80::1", "fec0::1", "ff02::1", "100::1", "5f00::1",
]  # fmt: skip


def test_public_addresses_are_told_from_the_others():
    assert [a for a in PUBLIC if not is_public(ipaddress.ip_address(a))] == []
    assert [a for a in NOT_PUBLIC if is_public(ipaddress.ip_address(a))] == []


@given(st.ip_addresses())
def test_what_python_calls_not_global_is_never_public(address):
    assert not is_public(address) or (address.is_global and not address.is_multicast)


def test_an_owner_may_allow_networks():
    extra = networks(["10.1.0.0/16", " ::1 ", ""])
    for text, expected in (("10.1.2.3", True), ("10.2.2.3", False), ("::1", True), ("8.8.8.8", True)):
        assert is_allowed(ipaddress.ip_address(text), extra) is expected


# --- small judges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None), (["all"], None), (["nofollow, noarchive"], None), (["NoAI"], "noai"), (["nofollow, noimageai"], "noimageai"),
        (["none"], "none"), (["googlebot: noindex"], None), (["googlebot: noindex, noai"], None),
        (["googlebot: nofollow, vlm-runner: noai"], "noai"), (["vlm-runner: noai"], "noai"), (["*: noindex"], "noindex"),
        (["otherbot: noai", "noimageindex"], "noimageindex"), (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], None), (["max-snippet: 5, noindex"], "noindex"),
        (["VLM-Runner: NoIndex"], "noindex"), (["noaiish"], None), ([":::,,,"], None),
    ],
)  # fmt: skip
def test_the_robots_header(headers, expected):
    assert opted_out(headers) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_a_picture_is_known_by_its_first_bytes(kind):
    assert image_kind(encoded(kind)) == kind.lower()


@given(st.binary(max_size=40))
def test_a_kind_is_found_or_not(data):
    assert image_kind(b"<html>" + data) is None and image_kind(b"%PDF" + data) is None


@given(st.text(max_size=60))
def test_any_text_is_a_target_or_a_reason(text):
    for url in (text, "http://" + text, "http://example.org/" + text, "https://example.org/?" + text):
        try:
            target = parse(url)
        except DownloadFailed as error:
            assert error.reason in download.JUDGED_ALONE
        else:
            assert target.path.isascii() and target.path.startswith("/") and not set(target.path) & set(" \r\n\0")
            assert target.host.isascii()
