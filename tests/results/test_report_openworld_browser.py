"""The report on open-world answers in a real browser: pictures and charts on the screen, nothing logged or fetched."""

import pytest
from devtools import Page
from synthetic_audit import hostile
from synthetic_openworld import RUN, experiment

from results.report import render

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("twist", "width"), [(str, 1280), (str, 390), (hostile, 1280)])
def test_everything_is_on_the_screen_and_nothing_is_fetched(store, tmp_path, twist, width):
    experiment(twist).store(store)
    path = tmp_path / "report.html"
    path.write_text(render(store, RUN), "utf8")
    page = Page(tmp_path / "profile", width=width)
    try:
        page.open(path.as_uri())
        page.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.ask("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        page.ask("Promise.all([...document.images].map(i => i.decode())).then(() => 1)")
        assert page.ask("document.images.length > 20 && [...document.images].every(i => i.naturalWidth > 0)")
        assert page.ask("[...document.querySelectorAll('.dots svg')].every(s => s.getBoundingClientRect().width > 200)")
        assert page.ask("document.querySelectorAll('.dots svg').length") > 8
        assert page.ask("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
        assert page.ask("document.scripts.length") == 0
        assert page.complaints() == []
        assert page.requests() == [path.as_uri()]
    finally:
        page.close()
