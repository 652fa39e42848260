"""From text to a compiled spec: values, references, order, parameters, sweeps."""

from pathlib import Path
from typing import Any

import pytest
from spec_vocabulary import PROVIDERS, STEPS, FolderCorpus, ShardCorpus

from runner.errors import Position, SpecError
from runner.references import ResolvedPath
from runner.spec import CompiledSpec, Reference, compile_text, load_spec

WHOLE = """\
# yaml-language-server: $schema=schema.json
name: whole
description: Everything at once.
profile: embedded
seed: 7
budget: {llm_calls: 10, minutes: 1.5}
params: {k: 100, where: {kind: shards, shards: [a, b]}}
models:
  llm: {provider: chat, model: q}
  clip: {provider: clip, name: x}
  subject: {provider: zero_shot, encoder: $clip}
  fitted: {provider: fitted, head: $images.index}
steps:
  verdict: {uses: t.judge, classifier: $fitted, images: $few, targets: $ideas.targets, table: $lines.captions}
  other: {uses: t.judge, classifier: $subject, settings: {a: [1, "$$x"]}}
  ideas: {uses: t.propose, llm: $llm, task: $$5 a day, classes: [cat, $$dog]}
  lines: {uses: t.caption, ideas: $ideas}
  images: {uses: t.search, encoder: $clip, queries: $lines, k: $params.k, corpus: $params.where}
  few: {uses: t.few, images: $images}
  all: {uses: t.compare, parts: [$lines, $verdict], named: {a: $lines}, folder: $images.index}
fail_on: {disfavoured: 2}
"""


def compiled(text: str, *overrides: str, base: Path | str = "/nowhere") -> CompiledSpec:
    return compile_text(text, "spec.yaml", base, overrides, steps=STEPS, providers=PROVIDERS)


def problems(text: str, *overrides: str, base: Path | str = "/nowhere") -> list[str]:
    with pytest.raises(SpecError) as caught:
        compiled(text, *overrides, base=base)
    return [f"{p.position.line}:{p.code}" for p in caught.value.problems]


def test_the_header() -> None:
    spec = compiled(WHOLE)
    assert (spec.name, spec.description, spec.profile, spec.seed) == ("whole", "Everything at once.", "embedded", 7)
    assert spec.budget == {"llm_calls": 10, "minutes": 1.5} and spec.fail_on == {"disfavoured": 2}
    assert spec.results == Path("/nowhere/out/results.duckdb")
    assert spec.path == Path("/nowhere/spec.yaml")
    assert spec.text == WHOLE
    assert (spec.overrides, spec.sweep) == ((), {})


def test_steps_come_in_topological_order_ties_as_written() -> None:
    (variant,) = compiled(WHOLE).variants
    assert list(variant.steps) == ["other", "ideas", "lines", "images", "few", "verdict", "all"]
    assert variant.name == ""


def test_a_step_waits_for_what_its_models_need() -> None:
    steps = compiled(WHOLE).variants[0].steps
    assert steps["verdict"].depends_on == ("ideas", "lines", "images", "few")
    assert steps["other"].depends_on == ()
    assert steps["all"].depends_on == ("lines", "images", "verdict")


def test_every_parameter_is_a_value_or_a_reference() -> None:
    for node in compiled(WHOLE).variants[0].steps.values():
        assert set(node.values) | set(node.references) == set(node.definition.params)
        assert not set(node.values) & set(node.references)


def test_values_are_validated_defaults_kept_and_dollars_unescaped() -> None:
    steps = compiled(WHOLE).variants[0].steps
    assert steps["images"].values == {
        "corpus": ShardCorpus(kind="shards", shards=["a", "b"]), "filters": None, "k": 100, "rate": 0.5, "strict": True
    }  # fmt: skip
    assert steps["ideas"].values == {"task": "$5 a day", "classes": ["cat", "$dog"], "n": 3}
    assert steps["other"].values["settings"] == {"a": [1, "$x"]}


def test_references_say_what_they_lead_to_and_where_they_stand() -> None:
    steps = compiled(WHOLE).variants[0].steps
    assert steps["few"].references == {"images": Reference("step", "images", None, Position(19, 30, "spec.yaml"))}
    assert steps["images"].references["encoder"] == Reference("model", "clip", None, Position(18, 37, "spec.yaml"))
    assert str(steps["all"].references["folder"]) == "$images.index"
    parts, named = steps["all"].references["parts"], steps["all"].references["named"]
    assert [r.name for r in parts] == ["lines", "verdict"]
    assert {key: r.name for key, r in named.items()} == {"a": "lines"}


def test_models_are_configs_with_their_links() -> None:
    models = compiled(WHOLE).variants[0].models
    assert list(models) == ["llm", "clip", "subject", "fitted"]
    assert models["subject"].encoder == "$clip"
    assert models["subject"].labels == ("cat", "dog")
    assert models["fitted"].head == "$images.index"


def test_a_special_artifact_stands_where_the_general_one_may_but_not_the_other_way() -> None:
    steps = "steps:\n  a: {uses: t.search, encoder: $clip, queries: [x]}\n  b: {uses: t.few, images: $a}\n"
    text = f"name: n\nmodels: {{clip: {{provider: clip, name: x}}}}\n{steps}  c: {{uses: t.few, images: $b}}\n"
    assert list(compiled(text).variants[0].steps) == ["a", "b", "c"]


def test_overrides_are_yaml_and_are_validated() -> None:
    spec = compiled(WHOLE, "k=20", "where={kind: shards, shards: [c]}", "seed=3")
    (variant,) = spec.variants
    assert variant.params == {"k": 20, "where": {"kind": "shards", "shards": ["c"]}, "seed": 3}
    assert variant.steps["images"].values["k"] == 20
    assert (spec.seed, variant.seed) == (3, 3)
    assert spec.overrides == ("k=20", "where={kind: shards, shards: [c]}", "seed=3")
    assert problems(WHOLE, "k=1e-4") == ["18:wrong-type"]
    assert problems(WHOLE, "k=") == ["18:wrong-type"]


def test_recorded_overrides_compile_to_the_same() -> None:
    spec = compiled(WHOLE, "k=20")
    assert compiled(spec.text, *spec.overrides).variants == spec.variants


SWEPT = WHOLE.replace("seed: 7\n", "sweep: {seed: [0, 1], k: [5, 6, 7]}\n")


def test_a_sweep_is_the_cross_product() -> None:
    spec = compiled(SWEPT)
    assert [v.name for v in spec.variants] == [
        "seed=0,k=5", "seed=0,k=6", "seed=0,k=7", "seed=1,k=5", "seed=1,k=6", "seed=1,k=7"
    ]  # fmt: skip
    assert [(v.seed, v.params["k"], v.steps["images"].values["k"]) for v in spec.variants[2:4]] == [
        (0, 7, 7),
        (1, 5, 5),
    ]
    assert spec.sweep == {"seed": (0, 1), "k": (5, 6, 7)}
    assert spec.seed == 0


def test_an_override_pins_what_a_sweep_would_vary() -> None:
    spec = compiled(SWEPT, "k=6")
    assert [v.name for v in spec.variants] == ["seed=0", "seed=1"]
    assert all(v.params["k"] == 6 for v in spec.variants)
    assert [v.name for v in compiled(SWEPT, "k=6", "seed=1").variants] == [""]


def test_a_sweep_may_choose_the_model() -> None:
    text = """\
name: choice
params: {llm: $small}
sweep: {llm: [$small, $large]}
models:
  small: {provider: chat, model: s}
  large: {provider: chat, model: l}
steps:
  ideas: {uses: t.propose, llm: $params.llm, task: x, classes: [a]}
"""
    spec = compiled(text)
    assert [(v.name, list(v.models)) for v in spec.variants] == [("llm=$small", ["small"]), ("llm=$large", ["large"])]
    assert spec.variants[1].steps["ideas"].references["llm"].name == "large"
    assert list(compiled(text, "llm=$large").variants[0].models) == ["large"]


def test_names_of_variants_stay_readable() -> None:
    text = SWEPT.replace("k: [5, 6, 7]", "where: [{kind: shards, shards: [c]}, {kind: shards, shards: [d]}]")
    names = [v.name for v in compiled(text).variants]
    assert len(set(names)) == 4
    assert all(len(name) < 40 and name.startswith("seed=") and ",where=~" in name for name in names)


def test_every_variant_is_validated() -> None:
    assert problems(SWEPT.replace("[5, 6, 7]", "[5, 0, x]")) == ["18:wrong-value", "18:wrong-type"]


def test_the_seed_is_a_parameter_of_its_own() -> None:
    text = WHOLE.replace("k: $params.k", "k: $params.seed").replace("k: 100, ", "")
    assert compiled(text).variants[0].steps["images"].values["k"] == 7


def test_params_are_put_in_anywhere_also_for_uses_and_provider() -> None:
    text = """\
name: n
params: {what: t.search, who: clip, side: 3, words: [a, $$b]}
models:
  clip: {provider: $params.who, name: x}
steps:
  a: {uses: $params.what, encoder: $clip, queries: $params.words, filters: {side: $params.side}}
"""
    node = compiled(text).variants[0].steps["a"]
    assert node.values["queries"] == ["a", "$b"]
    assert node.values["filters"].side == 3


@pytest.mark.parametrize(
    ("written", "code"),
    [("k: '5'", "wrong-type"), ("k: 5.5", "wrong-type"), ("k: true", "wrong-type"), ("k: 1001", "wrong-value"),
     ("strict: 1", "wrong-type"), ("rate: '0.5'", "wrong-type"), ("filters: {side: 1.5}", "wrong-type"),
     ("corpus: {kind: shards, shards: [a], size: [1, 2, 3]}", "wrong-value"), ("k: null", "wrong-type")],
)  # fmt: skip
def test_nothing_is_converted(written: str, code: str) -> None:
    text = WHOLE.replace("k: $params.k, corpus: $params.where", written).replace("params:", "#")
    assert problems(text) == [f"18:{code}"]


def test_whole_numbers_are_numbers_and_lists_are_tuples() -> None:
    text = WHOLE.replace(
        "k: $params.k, corpus: $params.where", "rate: 1, corpus: {kind: shards, shards: [a], size: [2, 3]}"
    )
    values = compiled(text.replace("params:", "#")).variants[0].steps["images"].values
    assert values["rate"] == 1.0
    assert values["corpus"].size == (2, 3)


def test_paths_are_relative_to_the_spec(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    text = WHOLE.replace("where: {kind: shards, shards: [a, b]}", "where: {kind: folder, folder: ./photos}")
    corpus = compiled(text, base=tmp_path).variants[0].steps["images"].values["corpus"]
    assert isinstance(corpus, FolderCorpus)
    assert corpus.folder == ResolvedPath(tmp_path / "photos")
    assert problems(text, base="/nowhere") == ["18:missing-path"]
    for strange in ("~nobody-here/x", "x" * 5000):
        assert problems(text, f"where={{kind: folder, folder: {strange}}}", base=tmp_path) == ["18:missing-path"]


def test_optional_references_may_be_null_or_left_out() -> None:
    text = WHOLE.replace("ideas: $ideas}", "ideas: $ideas, llm: null}")
    assert compiled(text).variants[0].steps["lines"].values["llm"] is None
    text = WHOLE.replace("ideas: $ideas}", "ideas: $ideas, llm: $llm}")
    assert compiled(text).variants[0].steps["lines"].references["llm"].kind == "model"


def test_a_union_takes_a_reference_or_a_value() -> None:
    text = (
        WHOLE.replace("queries: $lines", "queries: [one, two]").replace("k: $params.k", "k: 3").replace("k: 100, ", "")
    )
    assert compiled(text).variants[0].steps["images"].values["queries"] == ["one", "two"]
    text = WHOLE.replace("queries: $lines", "queries: $ideas.targets")
    assert str(compiled(text).variants[0].steps["images"].references["queries"]) == "$ideas.targets"


def test_one_mistake_is_one_problem_and_all_mistakes_are_told() -> None:
    text = WHOLE.replace("k: $params.k", "k: many").replace("model: q", "modle: q").replace("$few", "$fwe")
    assert problems(text) == ["7:unused-param", "9:unknown-field", "14:unknown-name", "18:wrong-type"]


def test_a_long_chain_is_no_deep_recursion() -> None:
    rows = "".join(f"  s{n}: {{uses: t.few, images: $s{n + 1}}}\n" for n in range(3000))
    text = f"name: n\nmodels: {{clip: {{provider: clip, name: x}}}}\nsteps:\n{rows}"
    last = "  s3000: {uses: t.search, encoder: $clip, queries: [x]}\n"
    steps = compiled(text + last).variants[0].steps
    assert list(steps)[:2] == ["s3000", "s2999"]
    ring = text.replace("clip:", "c:").split("models:")[0] + "steps:\n" + rows + "  s3000: {uses: t.few, images: $s0}\n"
    assert problems(ring) == ["3:cycle"]


def test_files_that_cannot_be_specs(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(SpecError) as caught:
            load_spec(path, steps=STEPS, providers=PROVIDERS)
        (problem,) = caught.value.problems
        assert problem.position.file == str(path)
        return f"{problem.message} | {problem.suggestion}"

    (tmp_path / "audit.yaml").write_text("name: x", "utf8")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe4")
    (tmp_path / "wide.yaml").write_bytes("name: x".encode("utf-16"))
    (tmp_path / "large.yaml").write_bytes(b"#" * 10_000_000)
    (tmp_path / "none.yaml").write_bytes(b"")
    assert refused(tmp_path / "adit.yaml") == f"no such file | {tmp_path / 'audit.yaml'}"
    assert refused(tmp_path) == "this is a folder, not a spec | None"
    assert refused(tmp_path / "latin.yaml").startswith("this is not UTF-8 text (byte 0xe4)")
    assert refused(tmp_path / "wide.yaml").startswith("this is not UTF-8 text")
    assert refused(tmp_path / "large.yaml").startswith("a spec may have at most 1,048,576 bytes")
    assert refused(tmp_path / "none.yaml").startswith("the spec is empty")
    assert refused(tmp_path / "audit.yaml" / "below").startswith("cannot be read: ")
    assert refused(Path("/dev/zero")).startswith("a spec may have at most")
    assert refused(tmp_path / ("x" * 5000)).startswith("cannot be read: ")


def test_the_environment_reaches_providers() -> None:
    from typing import ClassVar

    from pydantic import ValidationInfo, field_validator

    from runner.models.base import ChatModel
    from runner.models.registry import ModelConfig

    class Keyed(ModelConfig):
        kind: ClassVar[type[ChatModel]] = ChatModel
        api_key_env: str

        @field_validator("api_key_env")
        @classmethod
        def _is_set(cls, value: str, info: ValidationInfo) -> str:
            if value not in info.context["env"]:
                raise ValueError(f"the environment has no {value}")
            return value

    text = "name: n\nmodels: {llm: {provider: keyed, api_key_env: KEY}}\nsteps: {a: {uses: t.propose, llm: $llm, task: x, classes: []}}"
    given: dict[str, Any] = {"steps": STEPS, "providers": {"keyed": Keyed}}
    assert compile_text(text, "s", ".", env={"KEY": "x"}, **given).variants[0].models["llm"].api_key_env == "KEY"
    with pytest.raises(SpecError, match="the environment has no KEY"):
        compile_text(text, "s", ".", env={}, **given)
