"""One picture from one link of a stranger, or the reason why not.

Only http and https; the name is resolved once, every address it has must be public, and the connection goes to the
address that was judged, so that a second answer of the name server cannot lead elsewhere. Redirects are followed by
hand and judged like links. Bytes, seconds and redirects are bounded; the seconds count over everything, so that neither
a slow drip of headers nor one of content holds a thread. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from runner.data.sources.addresses import Network, is_allowed
from runner.data.sources.robots import AGENT, opted_out

MAX_REDIRECTS = 5
_MAX_URL = 8192
_PIECE = 2**16
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {
    "User-Agent": f"{AGENT}/0.1",
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


JUDGED_ALONE = frozenset({"bad_url", "refused_scheme", "credentials_in_url", "refused_port", "refused_address"})
"""Reasons that say nothing about whether the network can be reached."""


class DownloadFailed(Exception):
    """A link gave no picture. ``reason`` is a stable short name; ``reached`` whether a server answered at all.

    ``detail`` may hold words of the server: nothing in it controls a terminal.
    """

    def __init__(self, reason: str, detail: str = "", *, reached: bool = True) -> None:
        detail = printable(detail)
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.reached = reason, detail, reached


def printable(text: str, most: int = 200) -> str:
    """A stranger's text as it can be shown: bounded, and without control characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:most])


class Target(NamedTuple):
    """A link that was judged by its text: what to connect to, and what to ask for there."""

    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True)
class Fetcher:
    """Fetches pictures. ``timeout`` in seconds and ``max_bytes`` hold for one link with all its redirects.

    ``allowed`` are networks that are not public but may be reached all the same; no spec can set them.
    """

    timeout: float = 30.0
    max_bytes: int = 32 * 2**20
    allowed: tuple[Network, ...] = field(default=())

    def fetch(self, url: str) -> bytes:
        """Bytes of the picture behind a link. Raises ``DownloadFailed``."""
        deadline = time.monotonic() + self.timeout
        for _ in range(MAX_REDIRECTS + 1):
            try:
                answer = self._hop(url, deadline)
            except (http.client.HTTPException, OSError, ValueError) as error:
                raise _failure(error, deadline, reached=True) from error
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise DownloadFailed("too_many_redirects", f"more than {MAX_REDIRECTS}")

    def _hop(self, url: str, deadline: float) -> bytes | str:
        """The picture behind a link, or where the link leads on to."""
        target = parse(url)
        with self._connect(target, deadline) as sock:
            response = _ask(sock, target, deadline)
            if response.status in _REDIRECTS:
                return _location(response)
            return self._picture(response, deadline)

    def _connect(self, target: Target, deadline: float) -> socket.socket:
        """A connected socket, TLS included, to an address of the host that may be used."""
        problem: OSError | None = None
        for family, address in self._addresses(target, deadline):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(_left(deadline))
                sock.connect((str(address), target.port))
                return _secured(sock, target, deadline)
            except OSError as error:
                sock.close()
                problem = error
            except BaseException:
                sock.close()
                raise
        assert problem is not None
        raise _failure(problem, deadline, reached=False) from problem

    def _addresses(self, target: Target, deadline: float) -> list[tuple[int, Any]]:
        """Family and address of a host. One that is not public spoils them all: such a name means no good."""
        found = []
        for family, text in _resolve(target.host, deadline):
            address = ipaddress.ip_address(text.partition("%")[0])
            if not is_allowed(address, self.allowed):
                raise DownloadFailed("refused_address", f"{target.host} is {address}, no public address")
            found.append((family, address))
        return found

    def _picture(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        if response.status != 200:
            raise DownloadFailed(f"http_{response.status}", response.reason[:100])
        encoding = response.getheader("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise DownloadFailed("encoded_body", f"Content-Encoding: {encoding[:50]}, which was not asked for")
        data = self._body(response, deadline)
        if image_kind(data) is None:
            kind = response.getheader("Content-Type", "no type")[:50]
            raise DownloadFailed("not_an_image", f"{len(data)} bytes, {kind}")
        return data

    def _body(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        declared = response.length
        if declared is not None and declared > self.max_bytes:
            raise DownloadFailed("too_large", f"{declared} bytes declared")
        data = bytearray()
        while piece := response.read1(_PIECE):
            data += piece
            if len(data) > self.max_bytes:
                raise DownloadFailed("too_large", f"more than {self.max_bytes} bytes")
            _left(deadline)
        if declared is not None and len(data) != declared:
            raise DownloadFailed("truncated_download", f"{len(data)} of {declared} bytes")
        return bytes(data)


def parse(url: str) -> Target:
    """Judge a link by its text. Raises ``DownloadFailed``."""
    url = url.strip()
    if not url or len(url) > _MAX_URL or any(c < " " or c == "\x7f" for c in url):
        raise DownloadFailed("bad_url", "empty, too long or with control characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise DownloadFailed("bad_url", str(error)[:100]) from error
    if parts.scheme not in _PORTS:
        raise DownloadFailed("refused_scheme", f"{parts.scheme[:20] or 'none'}: only http and https are fetched")
    if "@" in parts.netloc or "\\" in parts.netloc:
        raise DownloadFailed("credentials_in_url", "a user, a password or a backslash in the host's place")
    if not host:
        raise DownloadFailed("bad_url", "no host")
    port = _PORTS[parts.scheme] if port is None else port
    if port < 1024 and port not in _PORTS.values():
        raise DownloadFailed("refused_port", f"port {port} belongs to another service")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    return Target(parts.scheme, _ascii(host), port, path + (f"?{query}" if query else ""))


def _ascii(host: str) -> str:
    try:
        return host if ":" in host else host.encode("idna").decode()
    except UnicodeError as error:
        raise DownloadFailed("bad_url", f"host {host[:50]!r}") from error


def image_kind(data: bytes) -> str | None:
    """Format of a picture from its first bytes, None where they are no picture's."""
    starts = {
        b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png", b"GIF87a": "gif", b"GIF89a": "gif",
        b"II*\x00": "tiff", b"MM\x00*": "tiff",
    }  # fmt: skip
    for start, kind in starts.items():
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1"):
        return "avif"
    if (
        data[:2] == b"BM"
        and data[6:10] == bytes(4)
        and data[14:18] in (b"\x0c\0\0\0", b"(\0\0\0", b"l\0\0\0", b"|\0\0\0")
    ):
        return "bmp"
    return None


def _resolve(host: str, deadline: float) -> Sequence[tuple[int, str]]:
    """Families and addresses of a host, in a thread, since the system's resolver knows no deadline."""
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError, ValueError) as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True, name="resolve").start()
    try:
        found = answer.get(timeout=_left(deadline))
    except queue.Empty:
        raise DownloadFailed("timeout", "the name server did not answer", reached=False) from None
    if isinstance(found, BaseException) or not found:
        raise DownloadFailed("dns_failure", f"{host}: {found}"[:150], reached=False)
    return list(dict.fromkeys((family, str(place[0])) for family, _, _, _, place in found))


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _secured(sock: socket.socket, target: Target, deadline: float) -> socket.socket:
    if target.scheme != "https":
        return sock
    sock.settimeout(_left(deadline))
    return _tls().wrap_socket(sock, server_hostname=target.host)


def _ask(sock: socket.socket, target: Target, deadline: float) -> http.client.HTTPResponse:
    """Send the request and read the answer's head. Raises ``DownloadFailed`` where the server forbids the use."""
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.default_port = _PORTS[target.scheme]
    connection.sock = _Timed(sock, deadline)
    connection.request("GET", target.path, headers=_HEADERS)
    response = connection.getresponse()
    directive = opted_out(response.headers.get_all("X-Robots-Tag", []))
    if directive is not None:
        raise DownloadFailed("opted_out", f"X-Robots-Tag: {directive}")
    return response


def _location(response: http.client.HTTPResponse) -> str:
    place = response.getheader("Location")
    if not place:
        raise DownloadFailed(f"http_{response.status}", "a redirect to nowhere")
    return place


def _left(deadline: float) -> float:
    """Seconds until the deadline; raises ``TimeoutError`` past it."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for this link is over")
    return left


def _failure(error: Exception, deadline: float, *, reached: bool) -> DownloadFailed:
    text = f"{type(error).__name__}: {error}"[:150]
    if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
        return DownloadFailed("timeout", text, reached=reached)
    if isinstance(error, ssl.SSLError):
        return DownloadFailed("tls_failure", text)
    if isinstance(error, http.client.IncompleteRead):
        return DownloadFailed("truncated_download", text)
    if isinstance(error, OSError):
        return DownloadFailed("connection_failed", text, reached=reached)
    return DownloadFailed("bad_response", text)


class _Timed:
    """What ``http.client`` needs of a socket, each call with the time that is left, not with a time of its own."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._deadline))

    def close(self) -> None:
        """The socket is closed by whoever opened it."""


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left(self._deadline))
        return self._sock.recv_into(memoryview(buffer))
