"""The report as text: what it says, in which order, and that nothing of others can act in it."""

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console
from synthetic_audit import RUN, audit, hostile

from results.console import verdict_table
from results.report import render
from results.report.words import clean, duration, listed, named, p_value, percent_interval, points, size_of, whole
from results.store import ResultsStore
from results.tables import arrow_table
from runner.errors import UsageError


class Outline(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.words, self._quiet = [], [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._quiet += tag in ("style", "script")

    def handle_endtag(self, tag):
        self._quiet -= tag in ("style", "script")

    def handle_data(self, data):
        if not self._quiet:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"[\s\u202f]+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of one audit in ordinary, hostile and endless words."""
    store = ResultsStore(tmp_path_factory.mktemp("report") / "results.duckdb")
    audit().store(store)
    audit(hostile, run_id="hostile").store(store)
    audit(lambda text: f"{text} " * 900, run_id="long").store(store)
    audit(run_id="evidence", evidence=True).store(store)
    audit(hostile, run_id="hostile evidence", evidence=True).store(store)
    return {run: render(store, run) for run in (RUN, "hostile", "long", "evidence", "hostile evidence")}


@pytest.fixture(scope="module")
def plain(pages):
    return Outline(pages[RUN]).text


def test_findings_are_said_in_words_with_their_uncertainty(plain):
    assert (
        "On images described as “a cat in dark light”, this classifier is right 61 % of the time "
        "(95 % interval 51\u201370 %, n = 100) against 84 % on the others: worse by 23 points." in plain
    )
    assert "The classifier is worse in 2 circumstances and better in 2, of 14 that could be judged" in plain


def test_it_never_says_no_bias(pages):
    for page in pages.values():
        assert "no bias" not in Outline(page).text.lower()
    assert (
        "No evidence at this sample size: 10 groups; gaps above 18 points would have been seen"
        in Outline(pages[RUN]).text
    )


def test_the_order_of_the_page(pages):
    titles = [
        "What was found", "Accuracy and uncertainty, class by class", "Example pictures", "Not judged, and why",
        "Sanity check on neutral pictures", "Against hidden labels", "Would it come out the same again?",
        "Proposals that were dropped", "How the pictures were found", "How to read this", "What failed, and warnings",
        "Language-model usage", "Where it comes from",
    ]  # fmt: skip
    assert re.findall(r"<h2[^>]*><bdi>(.*?)</bdi>", pages[RUN]) == titles


@pytest.mark.parametrize(
    "said",
    [
        "Small models.", "looked at only after the audit", "They confirm 2 of 4 findings", "arXiv 2504.20902", "CC BY 4.0",
        "The Pets Project", "in place of pets", "the reply was not JSON after 2 repairs", "12 images could not be read",
        "repeats the attribute 'style'", "4 paid calls and 2 answers from the cache", "near duplicate",
        "the group's images fit their captions less well", "runner exec --from-run", "uses: c2b.assess", "torch 2.13.0",
        "1.5 billion parameters: small", "mean Jaccard index", "truncated: 12",
    ],
)  # fmt: skip
def test_what_else_must_be_there(plain, said):
    assert said in plain


def test_hidden_labels_only_where_there_are_any(store):
    audit(truth=False).store(store)
    text = Outline(render(store, RUN)).text
    assert "idden labels" not in text


def test_what_the_verdicts_rest_on_is_shown(pages):
    text = Outline(pages["evidence"]).text
    for said in (
        "Do the pictures show the class?", "no: no label means it", "On the pictures of cat that measure as dark", "luminance 0.02",
        "lowest and highest third", "no measurement fits", "Told apart: 18 values; not told apart: 1", "not testable",
        "grass and sofa fetch the same pictures", "new pets against old pets", "new pets is worse in 1 circumstance", "lighting (measured)",
    ):  # fmt: skip
        assert said in text, said


@pytest.mark.parametrize("run", [RUN, "hostile", "long", "evidence", "hostile evidence"])
def test_nothing_in_the_page_can_act(pages, run):
    page = Outline(pages[run])
    assert not {"script", "iframe", "object", "embed", "form", "base", "audio", "video"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset", "background"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    assert "{{" not in pages[RUN] + pages["evidence"] and "49" not in re.findall(r"\{\{(.*?)\}\}", pages["hostile"])
    assert "url(" not in pages[run] and "@import" not in pages[run]
    policies = [v for tag, name, v in page.attributes if tag == "meta" and name == "content" and "default-src" in v]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]


def test_hostile_words_change_nothing_but_words(pages):
    """The same elements in the same order: no string of others made or closed a tag."""
    drawn = {"path", "g", "text", "line", "rect", "tspan"}
    for ours, theirs in ((RUN, "hostile"), ("evidence", "hostile evidence")):
        tags = [[t for t in Outline(pages[run]).tags if t not in drawn] for run in (ours, theirs)]
        assert tags[0] == tags[1]
        assert "\u202e" not in pages[theirs] and "\x07" not in pages[theirs]


def test_endless_words_are_cut(pages):
    assert len(pages["long"]) < 2 * len(pages[RUN])


def test_pictures_have_words_and_tables_heads(pages):
    page = Outline(pages[RUN])
    alts = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
    assert len(alts) == page.tags.count("img") > 100
    assert all("The classifier said" in alt for alt in alts)
    assert page.tags.count("thead") == page.tags.count("table") > 8
    assert page.tags.count("th") == sum(tag == "th" and name == "scope" for tag, name, _ in page.attributes)


def test_fewer_pictures_when_asked(store, pages):
    audit().store(store)
    assert render(store, RUN, examples=1).count("<img") < pages[RUN].count("<img")


def test_a_large_page_is_said(store, caplog):
    made = audit(thumbnails=2)
    for row in made.steps["verdict"]["c2b_example"]:
        row["thumbnail"] = b"\xff" * 500_000
    made.store(store)
    render(store, RUN)
    assert "fewer example pictures" in caplog.text


def test_no_findings_is_said_with_its_limit(store):
    made = audit()
    for row in made.steps["verdict"]["c2b_group"]:
        row["verdict"] = "no_evidence" if row["phi"] is not None else "insufficient_data"
    made.store(store)
    text = Outline(render(store, RUN)).text
    assert re.search(r"In none of the \d+ circumstances that could be judged is there evidence of a difference", text)
    assert "gaps above 64 points would have been seen in every one of them" in text


def test_a_failed_gate_comes_first(store):
    made = audit()
    made.steps["verdict"]["c2b_gate"][0].update(k=100, acc=1 / 3, wilson_low=0.28, wilson_high=0.39, passed=False)
    made.store(store)
    text = Outline(render(store, RUN)).text
    assert text.index("The sanity check failed.") < text.index("On images described as")


def test_several_audits_get_an_overview(store):
    made = audit()
    made.store(store)
    for variant in ("k=20", "k=50"):
        store.replace_step(RUN, variant, "verdict", made.tables("verdict"))
    page = render(store, RUN)
    assert "The audits of this run" in page
    assert page.count("<h2") == len(set(re.findall(r'<h2 id="([^"]+)"', page)))
    assert "What was found (k=20 · verdict)" in Outline(page).text


def test_a_run_that_stopped_early(store):
    made = audit()
    made.run["run"].update(status="failed", error="the endpoint refused the key")
    store.replace_run(made.run)
    text = Outline(render(store, RUN)).text
    assert "Not finished: failed." in text and "the endpoint refused the key" in text
    store.replace_step(RUN, "", "biases", made.tables("biases"))
    assert "no classifier was assessed" in Outline(render(store, RUN)).text


def test_other_methods_show_their_tables(store):
    store.replace_run(audit().run)
    score = {
        "head": "ridge",
        "dataset": "pets",
        "metric": "recall@1",
        "value": 0.4321,
        "n": 500,
        "low": 0.39,
        "high": 0.48,
    }
    store.replace_step(RUN, "", "fit", {"encoder_score": arrow_table("encoder_score", [score])})
    text = Outline(render(store, RUN)).text
    assert "Quality of an image-text encoder measured on held-out data" in text
    assert "recall@1" in text and "0.4321" in text
    assert "What was found" not in text


def test_an_unknown_run_is_refused(store):
    store.create()
    with pytest.raises(UsageError, match="there is no run 'nope'"):
        render(store, "nope")


def test_words():
    assert clean("a\x00b\u202ec") == "a\ufffdb\ufffdc"
    assert clean("x" * 50, 10) == "x" * 9 + "…"
    assert str(named("<b>")) == "<bdi>&lt;b&gt;</bdi>"
    assert (
        str(listed(["a", "b", "c", "d", "e", "f"]))
        == "<bdi>a</bdi>, <bdi>b</bdi>, <bdi>c</bdi>, <bdi>d</bdi> and 2 more"
    )
    assert (points(-0.234), points(0.0), points(0.004), points(None)) == ("\u221223", "0", "0", "\u2013")
    assert (size_of(0.01), size_of(-0.2)) == ("1 point", "20 points")
    assert (p_value(0.0004), p_value(0.0342), whole(12345)) == ("< 0.001", "0.034", "12\u202f345")
    assert percent_interval(0.514, 0.7) == "51\u201370\u202f%"
    assert [duration(s) for s in (3.21, 400.2, 7500)] == ["3.2 s", "6 min 40 s", "2 h 5 min"]


def by_rounds(made):
    """The audit as one that took its pictures by rounds."""
    for group in made.steps["verdict"]["c2b_group"]:
        decided = group["verdict"] in ("favoured", "disfavoured")
        group |= {"stopped": "decided" if decided else "futile", "available": 2 * group["n"], "fisher_p": None}
        group |= {"e_value": 60.0 if decided else 0.5}
    return made


def test_pictures_taken_by_rounds_are_not_called_what_they_are_not(store):
    made = by_rounds(audit())
    made.store(store)
    text = Outline(render(store, RUN)).text
    taken = sum(group["n"] for group in made.steps["verdict"]["c2b_group"])
    assert f"as far as they were needed: {taken:,} of {2 * taken:,}".replace(",", " ") in text.replace(",", " ")
    assert "a value was found" in text and "gap excluded" in text and "Larger gaps are excluded" in text
    assert "hold at 95 % however often one looks" in text
    assert not re.search(r"Wilson|MOVER|would have been seen|p \(Fisher\)|large enough to see", text)


def test_the_terminal_says_how_many_were_taken_and_why_no_more(store):
    audit().store(store)
    fixed = printed(verdict_table(store, RUN))
    assert "gap seen from" in fixed and "stopped" not in fixed and "excluded" not in fixed
    by_rounds(audit(run_id="rounds")).store(store)
    text = printed(verdict_table(store, "rounds"))
    assert "gaps excluded above" in text and "100 of 200" in text and "a value was found" in text
    assert "seen from" not in text


def printed(table):
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()
