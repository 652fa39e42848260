"""The plan: what is done, what will run and why, what that costs and fetches, as text, chart and JSON."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import graph_sample as sample
import pytest

from runner.errors import DataError
from runner.graph import ArtifactStore, execute, make_plan
from runner.graph.plan import total
from runner.graph.plan_view import size_text
from runner.references import AssetRef
from runner.steps import Cost

SPEC = {
    "name": "plan",
    "params": {"k": 20},
    "models": {"scale": {"provider": "sample_scale", "factor": 2.0}},
    "steps": {
        "a": {"uses": "sample.numbers", "count": "$params.k"},
        "b": {"uses": "sample.scaled", "numbers": "$a", "by": "$scale"},
        "c": {"uses": "sample.everything", "numbers": "$a", "path": "words.txt"},
    },
}


class Nowhere:
    """Results that nobody reads."""

    def replace_run(self, run_json):
        pass

    def replace_steps(self, run_id, steps):
        pass


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "words.txt").write_text("one")

    def made(overrides=(), **changes):
        return sample.sample_spec(tmp_path, SPEC | changes, overrides)

    return made


def reasons(plan):
    return {node.first.step: node.reason for node in plan.nodes}


def test_before_the_first_run_nothing_is_done(spec, workspace):
    plan = make_plan(spec(), workspace)
    assert reasons(plan) == dict.fromkeys("abc", "never run")
    assert plan.text().splitlines()[0] == "plan: 3 steps, 0 done, 3 to run"


def test_after_a_run_everything_is_done(spec, workspace):
    execute(spec(), workspace, Nowhere())
    plan = make_plan(spec(), workspace)
    assert reasons(plan) == dict.fromkeys("abc", "")
    assert plan.text().splitlines()[0] == "plan: 3 steps, 3 done, 0 to run"


def test_what_changed_is_said(spec, workspace, tmp_path):
    execute(spec(), workspace, Nowhere())
    parameter = reasons(make_plan(spec(["k=50"]), workspace))
    assert parameter == {
        "a": "parameter count changed 20 -> 50", "b": "input a changed", "c": "input a changed",
    }  # fmt: skip
    model = spec(models={"scale": {"provider": "sample_scale", "factor": 3.0}})
    assert reasons(make_plan(model, workspace)) == {"a": "", "b": "model by changed", "c": ""}
    seed = reasons(make_plan(spec(seed=7), workspace))
    assert seed["a"] == "seed changed 0 -> 7"
    (tmp_path / "words.txt").write_text("two")
    content = reasons(make_plan(spec(), workspace))
    assert content == {"a": "", "b": "", "c": "content of path changed (words.txt)"}


def test_a_new_version_of_a_step_is_said(spec, workspace, monkeypatch):
    execute(spec(), workspace, Nowhere())
    newer = dataclasses.replace(sample.STEPS["sample.scaled"], version="2")
    monkeypatch.setitem(sample.STEPS, "sample.scaled", newer)
    assert reasons(make_plan(spec(), workspace))["b"] == "version of the step changed 1 -> 2"


def test_a_damaged_artifact_will_run_again(spec, workspace):
    execute(spec(), workspace, Nowhere())
    (node,) = [n for n in make_plan(spec(), workspace).nodes if n.id == "b"]
    path = ArtifactStore(workspace).folder(node.key) / "scores.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    assert reasons(make_plan(spec(), workspace))["b"].startswith("its result is damaged: scores.parquet has")


def test_seedless_steps_do_not_depend_on_the_seed(spec, workspace, monkeypatch):
    tagged = dataclasses.replace(sample.STEPS["sample.numbers"], tags=frozenset({"seedless"}))
    monkeypatch.setitem(sample.STEPS, "sample.numbers", tagged)
    first, second = (make_plan(spec(seed=s), workspace).nodes for s in (0, 1))
    assert first[0].key == second[0].key
    assert first[1].key != second[1].key


def test_variants_share_what_they_have_in_common(tmp_path, workspace):
    plan = make_plan(sample.sample_spec(tmp_path, sample.MATRIX), workspace)
    shared = {node.first.step for node in plan.nodes if len(node.placements) == 2}
    assert shared == {"base", "right", "noise", "think"}
    assert len(plan.nodes) == 12
    ids = [node.id for node in plan.nodes]
    assert len(set(ids)) == len(ids)


def test_two_steps_that_say_the_same_are_one(tmp_path, workspace):
    steps = {n: {"uses": "sample.numbers", "count": 4} for n in ("x", "y")}
    steps["z"] = {"uses": "sample.total", "parts": ["$x", "$y"]}
    plan = make_plan(sample.sample_spec(tmp_path, {"name": "twins", "steps": steps}), workspace)
    assert [[p.step for p in node.placements] for node in plan.nodes] == [["x", "y"], ["z"]]


def test_a_path_that_is_gone_is_said(spec, workspace, tmp_path):
    compiled = spec()
    (tmp_path / "words.txt").unlink()
    with pytest.raises(DataError, match=r"no such file or folder: .*words\.txt"):
        make_plan(compiled, workspace)


def test_costs_add_up_and_unknown_stays_unknown():
    assert total([Cost(1, 2, 3), Cost(10, 20, 30)]) == Cost(11, 22, 33)
    assert total([Cost(1, None, 3), Cost(10, 20, 30)]) == Cost(11, None, 33)
    assert total([]) == Cost(0, 0, 0)


def test_estimates_count_only_what_will_run(spec, workspace, monkeypatch):
    def estimated(name, cost):
        definition = dataclasses.replace(sample.STEPS[name], estimate=cost)
        monkeypatch.setitem(sample.STEPS, name, definition)

    estimated("sample.numbers", lambda params: Cost(llm_calls=params["count"]))
    estimated("sample.scaled", lambda params: Cost(images=None, bytes=2_500_000))
    plan = make_plan(spec(), workspace)
    assert plan.cost == Cost(20, None, 2_500_000)
    assert plan.text().splitlines()[-1] == "to spend: 20 language-model calls, ? images, 2.5 MB"
    execute(spec(), workspace, Nowhere())
    assert make_plan(spec(), workspace).cost == Cost()


def test_the_chart_and_the_json_hold_every_node(tmp_path, workspace):
    plan = make_plan(sample.sample_spec(tmp_path, sample.MATRIX), workspace)
    chart = plan.mermaid().splitlines()
    assert chart[0] == "flowchart TD"
    assert sum("-->" in line for line in chart) == sum(len(node.depends_on) for node in plan.nodes)
    stored = json.loads(json.dumps(plan.to_json()))
    assert [node["key"] for node in stored["nodes"]] == [node.key for node in plan.nodes]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2e9, "2 GB"), (3e13, "30 TB")]
)
def test_sizes_in_words(size, text):
    assert size_text(size) == text


# --- assets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    sha256: str
    bytes: int
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class File:
    path: Path
    name: str
    wanted: str
    sha256: str
    licence: str = "CC0"
    attribution: str = "someone"
    source: str = "a package"


class Registry:
    """Two assets and a role for both, of which the larger cannot be had."""

    def __init__(self, folder):
        self.folder, self.fetched = folder, []
        self.entries = {
            "large": Entry("1" * 64, 100),
            "small": Entry("2" * 64, 10),
            "any": Entry("", 0, ("large", "small")),
        }

    def entry(self, name):
        return self.entries[name]

    def ensure(self, name, say):
        self.fetched.append(name)
        say("large cannot be had: small stands in")
        (self.folder / "small").write_text("s")
        return File(self.folder / "small", "small", name, self.entries["small"].sha256)


def with_asset(tmp_path, name):
    spec = sample.sample_spec(
        tmp_path, {"name": "assets", "steps": SPEC["steps"] | {}, **{k: SPEC[k] for k in ("models", "params")}}
    )
    variant = spec.variants[0]
    step = variant.steps["c"]
    step = dataclasses.replace(step, values={**step.values, "path": AssetRef(f"asset:{name}")})
    variant = dataclasses.replace(variant, steps={**variant.steps, "c": step})
    return dataclasses.replace(spec, variants=(variant,))


def test_planning_fetches_nothing_but_says_what_would_be_fetched(tmp_path, workspace):
    registry = Registry(tmp_path)
    plan = make_plan(with_asset(tmp_path, "any"), workspace, assets=registry)
    assert registry.fetched == []
    assert plan.assets["any"].sha256 == "1" * 64
    assert plan.text().splitlines()[-1] == "assets:   any (100 bytes)"


def test_keys_come_from_the_bytes_in_use(tmp_path, workspace):
    registry = Registry(tmp_path)
    keys = {
        name: [n.key for n in make_plan(with_asset(tmp_path, name), workspace, assets=registry, fetch=fetch).nodes][-1]
        for name, fetch in (("any", True), ("small", False), ("large", False))
    }
    assert keys["any"] == keys["small"] != keys["large"]


def test_the_run_says_which_assets_it_used(tmp_path, workspace):
    outcome = execute(with_asset(tmp_path, "any"), workspace, Nowhere(), assets=Registry(tmp_path))
    (row,) = workspace.run(outcome.run_id).record()["assets"]
    assert row["asset"] == "small" and row["wanted"] == "any" and row["licence"] == "CC0"
