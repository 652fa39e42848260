"""The scoring steps on artifacts: joins, refusals, caches; and the whole chain."""

import json

import pytest
from scored_material import Letters, answers_of, categories_of, judgements_of, row

from runner.context import local_context
from runner.errors import DataError, ModelRefused, StepError
from runner.nodes.openworld.steps import ErrorCells, elo, games, import_logs, score
from runner.references import ResolvedPath


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path)


def said(ctx):
    return [message["text"] for message in ctx.journal.messages]


def two_methods():
    rows = []
    for d, targets in (("dtd", ["banded", "dotted"]), ("caltech101", ["lighthouse", "pizza", "crab"])):
        rows += [row(t, f"a photo of a {t}, a thing", str(i), dataset=d) for i, t in enumerate(targets)]
    others = [row(r["target"], "something", r["sample_id"], dataset=r["dataset"], method="other") for r in rows]
    others[0] = row("banded", None, "0", method="other")
    return answers_of(rows), answers_of(others)


def scored(ctx, *answers, **fields):
    fields = {"chunker": "rules", "bootstrap": 50} | fields
    return score(ctx, answers=list(answers), sentences=fields.pop("sentences", None) or Letters(), **fields)


def test_the_whole_chain(ctx):
    scores = scored(ctx, *two_methods())
    summary = {(r["method"], r["name"], r["metric"]): r for r in scores.summary.to_pylist()}
    assert summary["zero_shot", "all", "text_inclusion"]["value"] == 1
    failed = summary["other", "dtd", "semantic_similarity"]
    assert (failed["n"], failed["unscored"]) == (1, 1)
    failed = summary["other", "dtd", "text_inclusion"]
    assert (failed["value"], failed["n"], failed["unscored"]) == (0, 2, 1)
    assert summary["zero_shot", "dtd", "n_items"]["value"] == 2
    assert {r["chunker"] for r in summary.values()} == {"rules"} and {r["encoder"] for r in summary.values()} == {
        "letters"
    }
    played = games(ctx, scores=[scores], games=300)
    assert played.players == ["other/base/lmm", "zero_shot/base/lmm"]
    rated = {(r["dataset"], r["player"]): r["final"] for r in elo(ctx, games=played).ratings.to_pylist()}
    for dataset in ("all", "dtd", "caltech101"):
        assert rated[dataset, "zero_shot/base/lmm"] > 1000 > rated[dataset, "other/base/lmm"]


def test_judgements_and_categories(ctx):
    rows = [row("dog", "a dog"), row("cat", "a rock", "1"), row("cat", "a tiger", "2"), row("cat", "a stone", "3")]
    judged = judgements_of({("dog", "a dog"): 1, ("cat", "a rock"): 0, ("cat", "a tiger"): None})
    sorts = categories_of(
        {("dog", "a dog"): "specific", ("cat", "a rock"): "wrong", ("cat", "a tiger"): "less specific"}
    )
    scores = scored(ctx, answers_of(rows), judgements=judged, categories=sorts)
    means = {r["metric"]: r for r in scores.summary.to_pylist() if r["level"] == "dataset"}
    assert means["llama_inclusion"]["value"] == 0.5 and means["llama_inclusion"]["unscored"] == 2
    assert (
        means["llama_inclusion_official"]["value"] == pytest.approx(1 / 3)
        and means["llama_inclusion_official"]["n"] == 3
    )
    assert means["llama_inclusion"]["judge"] == "judge-3b"
    cells = {(r["taxonomy"], r["cell"]): (r["n"], r["threshold"]) for r in scores.cells.to_pylist()}
    assert cells["quadrant", "correct_specific"] == (1, 0.6) and cells["quadrant", "wrong"] == (1, 0.6)
    assert sum(n for (taxonomy, _), (n, _) in cells.items() if taxonomy == "quadrant") == 2
    assert cells["six_way", "less specific"] == (1, None) and len(cells) == 4 + 6
    assert sum("1 of 4 answers were never" in text for text in said(ctx)) == 2


def test_cells_have_the_names_of_the_spec(ctx):
    named = ErrorCells(hit_close="right", miss_far="granularity")
    judged = judgements_of({("dog", "a dog"): 1})
    scores = scored(ctx, answers_of([row("dog", "a dog")]), judgements=judged, cells=named)
    assert [r["cell"] for r in scores.cells.to_pylist()] == [
        "right",
        "correct_generic",
        "wrong_specific",
        "granularity",
    ]
    with pytest.raises(ValueError, match="different names"):
        ErrorCells(hit_close="wrong")


def test_seeds_have_a_spread(ctx):
    rows = [
        row("dog", said, str(i), seed=s)
        for s, words in enumerate([["dog", "dog"], ["dog", "cat"]])
        for i, said in enumerate(words)
    ]
    means = {r["metric"]: r for r in scored(ctx, answers_of(rows)).summary.to_pylist() if r["level"] == "all"}
    one = means["text_inclusion"]
    assert (one["value"], one["seeds"], one["n"]) == (0.75, 2, 4) and one["sd"] == pytest.approx(0.5**0.5 / 2)


def test_groups(ctx):
    answers, _ = two_methods()
    found = {
        (r["level"], r["name"])
        for r in scored(ctx, answers, groups={"mine": ["dtd", "caltech101"]}).summary.to_pylist()
    }
    assert ("group", "mine") in found and ("group", "prototypical") not in found
    with pytest.raises(DataError, match="groups name cars; the answers are on caltech101, dtd"):
        scored(ctx, answers, groups={"mine": ["cars"]})
    other = answers_of([row("dog", "dog", method="other")], dtd="fine-grained")
    with pytest.raises(DataError, match="dtd belongs to the groups"):
        scored(ctx, answers, other)
    assert scored(ctx, answers, other, groups={}).settings["groups"] == {}


def test_two_answers_under_one_name(ctx):
    answers, _ = two_methods()
    with pytest.raises(DataError, match="hold two for method 'zero_shot'") as error:
        scored(ctx, answers, answers)
    assert "label" in str(error.value)
    scores = scored(ctx, answers)
    with pytest.raises(DataError, match="hold two for"):
        games(ctx, scores=[scores, scores])


def test_nothing_to_score(ctx):
    for answers in ([], [answers_of([])]):
        with pytest.raises(DataError, match="no answers"):
            scored(ctx, *answers)


def test_all_answers_failed(ctx):
    scores = scored(ctx, answers_of([row("dog", None), row("cat", None, "1")]))
    means = {r["metric"]: r for r in scores.summary.to_pylist() if r["level"] == "dataset"}
    assert means["text_inclusion"]["value"] == 0 and means["text_inclusion"]["unscored"] == 2
    assert means["bcs"]["value"] is None and means["bcs"]["n"] == 0 and scores.concepts.num_rows == 0


def test_a_missing_parser_is_said_before_work(ctx):
    encoder = Letters()
    with pytest.raises(ModelRefused, match="not installed"):
        scored(ctx, two_methods()[0], chunker="spacy:en_core_web_nothing", sentences=encoder)
    assert encoder.seen == []


def test_vectors_are_kept(ctx):
    first, second, answers = Letters(), Letters(), two_methods()[0]
    one, two = scored(ctx, answers, sentences=first), scored(ctx, answers, sentences=second)
    assert first.seen and second.seen == [] and one.scores.equals(two.scores)
    other = Letters("letters-2")
    scored(ctx, answers, sentences=other)
    assert other.seen == first.seen


def test_encoders_are_not_mixed_in_games(ctx):
    one, two = two_methods()
    scores = [scored(ctx, one), scored(ctx, two, sentences=Letters("letters-2"))]
    with pytest.raises(DataError, match="different sentence encoders"):
        games(ctx, scores=scores)
    judged = games(ctx, scores=scores, criterion="llama_score", games=10)
    assert judged.games["score"].null_count == 10 * 2
    with pytest.raises(DataError, match="no game has a score"):
        elo(ctx, games=judged)


def test_hostile_answers_reach_the_tables(ctx):
    strange = [
        "\x00",
        "a\nb\r\n",
        "{{ 7 * 7 }}",
        "<script>alert(1)</script>",
        "'; drop table owc_score; --",
        "🦀" * 1000,
        ",",
    ]
    rows = [row("dog\n{{x}}", text, str(i)) for i, text in enumerate(strange)]
    assert [r["prediction"] for r in scored(ctx, answers_of(rows), chunker="auto").scores.to_pylist()] == strange


def log(folder, task, lines, name="a_samples_.jsonl"):
    path = folder / task / "lmm" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def good(i):
    return json.dumps({"doc_id": i, "target": "dog", "filtered_resps": ["a dog"]})


def test_import(ctx, tmp_path):
    folder = tmp_path / "logs"
    log(folder, "dtd", [good(i) for i in range(4)])
    log(folder, "dtd", [good(i) for i in range(3)], "b_samples_.jsonl")
    log(folder, "eurosat_list", [good(0)] + ["broken"] * 15)
    answers = import_logs(ctx, path=ResolvedPath(folder), label="v1")
    assert answers.method == "v1" and answers.answers.num_rows == 5
    assert {r["prompt_key"] for r in answers.answers.to_pylist()} == {"base", "list"}
    assert len(ctx.failures) == 11 and ctx.failures[0][0] == "eurosat_list/lmm/a_samples_.jsonl:2"
    assert "5 further lines" in ctx.failures[-1][1]
    assert any("left out: a_samples_.jsonl" in text for text in said(ctx))
    assert scored(ctx, answers).scores.num_rows == 5


def test_import_of_nothing(ctx, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no <task>"):
        import_logs(ctx, path=ResolvedPath(tmp_path / "empty"))
    log(tmp_path / "bad", "dtd", ["broken"])
    with pytest.raises(DataError, match="no line of the 1 logs"):
        import_logs(ctx, path=ResolvedPath(tmp_path / "bad"))
    with pytest.raises(StepError, match="is no folder"):
        import_logs(ctx, path=ResolvedPath(tmp_path / "bad" / "dtd" / "lmm" / "a_samples_.jsonl"))
