"""The report in a real browser: nothing logged, nothing fetched, verdicts and pictures on the screen."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from devtools import Page
from synthetic_audit import RUN, audit, hostile

from results.report import render

pytestmark = pytest.mark.browser


@pytest.fixture
def page(tmp_path):
    made = Page(tmp_path / "profile")
    yield made
    made.close()


@pytest.fixture
def listener():
    """A server that hostile strings point at, and the paths it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def report(store, tmp_path, twist=lambda text: text):
    audit(twist).store(store)
    path = tmp_path / "report.html"
    path.write_text(render(store, RUN), "utf8")
    return path.as_uri()


VISIBLE = """[...document.querySelectorAll(%r)].filter(e => { const r = e.getBoundingClientRect();
return r.width > 5 && r.height > 5 && getComputedStyle(e).visibility == 'visible' })"""


@pytest.mark.parametrize("width", [1280, 390])
def test_verdicts_and_pictures_are_on_the_screen(store, tmp_path, width):
    page = Page(tmp_path / "profile", width=width)
    url = report(store, tmp_path)
    page.open(url)
    assert page.ask(f"({VISIBLE % '.card h3'}).map(e => e.innerText).join(' ')").count("worse by") == 2
    pictures = f"({VISIBLE % '.card img'})"
    assert page.ask(f"{pictures}.length") == 24
    page.ask("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.ask("Promise.all([...document.images].map(i => i.decode())).then(() => 1)")
    assert page.ask("[...document.images].every(i => i.naturalWidth > 0)")
    assert page.ask(f"({VISIBLE % '.plots svg'}).length") == 6
    assert page.ask("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
    assert page.complaints() == []
    assert page.requests() == [url]
    page.close()


def test_hostile_strings_fetch_and_run_nothing(store, tmp_path, page, listener):
    address, asked = listener

    def twist(text):
        return hostile(text).replace("http://evil.example", address) + f'<svg/onload=fetch("{address}/y")>'

    url = report(store, tmp_path, twist)
    page.open(url)
    page.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.ask("window.scrollTo(0, document.body.scrollHeight)")
    assert page.ask("document.scripts.length") == 0
    assert page.requests() == [url]
    assert page.complaints() == []
    assert asked == []


def test_the_policy_stops_what_slips_through(store, tmp_path, page, listener):
    """Second line of defence, and proof that the test above can fail: markup put in by hand is blocked and logged."""
    address, asked = listener
    audit().store(store)
    text = render(store, RUN)
    bad = f"<img src='{address}/x'><script>fetch('{address}/y')</script>"
    guarded, open_ = tmp_path / "guarded.html", tmp_path / "open.html"
    guarded.write_text(text.replace("</main>", f"{bad}</main>"), "utf8")
    open_.write_text(bad, "utf8")
    page.open(guarded.as_uri())
    assert asked == []
    assert page.complaints()
    page.open(open_.as_uri())
    assert sorted(asked) == ["/x", "/y"]
