"""What a spec may say of a merge, which tensors it means and which weights it refuses; the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runner.errors import DataError
from runner.nodes.merging.card import Source, card, licence_of
from runner.nodes.merging.methods import merge_tensor
from runner.nodes.merging.specs import METHODS, MergeSpec
from runner.nodes.merging.weighing import check_weights, depth_of, merges, section_of, weights_for

TEXT = "model.language_model.layers.1.mlp.up_proj.weight"
PROJECTOR = "model.multi_modal_projector.linear_1.weight"
TOWER = "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
EXPERTS = ["general", "ocr"]


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"method": "tiess"}, "ties"),
        ({"method": "slerp", "convention": "reference"}, "no convention reference"),
        ({"method": "iso", "convention": "mergekit"}, "no convention mergekit"),
        ({"method": "ties", "density": 0}, "greater than 0"),
        ({"method": "ties", "density": 1.01}, "less than or equal to 1"),
        ({"method": "ties", "density": {"ocr": 0}}, "greater than 0"),
        ({"method": "linear", "density": 0.5}, "density means nothing to linear"),
        ({"method": "linear", "lambda": 2.0}, "lambda means nothing to linear"),
        ({"method": "ties", "seed": 1}, "seed means nothing to ties"),
        ({"method": "ties", "lambda": float("nan")}, "finite"),
        ({"method": "fisher"}, "fisher needs the files"),
        ({"method": "fisher", "fisher": {"ocr": "nowhere.safetensors"}}, "no such file"),
        ({"method": "della", "density": 0.1}, "within 0 and 1"),
        ({"method": "dare_ties", "rescale": "none"}, "drop with a rescaling"),
        ({"include": ["("]}, "no regular expression"),
        ({"filters": [{"weights": {"ocr": 1}}]}, "one of match and regex"),
        ({"gradients": {"ocr": [0, 1]}}, "add normalize"),
        ({"methods": "linear"}, "Extra inputs"),
    ],
    ids=str,
)
def test_refused_before_anything_is_read(settings_: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        MergeSpec.model_validate(settings_)


def test_defaults_follow_method_and_convention() -> None:
    assert MergeSpec(method="iso").rule == "reference" and MergeSpec(method="ties").rule == "mergekit"
    assert MergeSpec(method="ties", convention="reference").densities(EXPERTS) == [0.2, 0.2]
    assert MergeSpec(method="dare_linear", convention="reference").densities(EXPERTS) == [0.8, 0.8]
    assert MergeSpec(method="ties", density={"ocr": 0.3}).densities(EXPERTS) == [1.0, 0.3]
    assert MergeSpec(method="ties").normalizes and not MergeSpec(method="dare_ties").normalizes
    assert MergeSpec(method="sce").ignores_weights and not MergeSpec(method="ties").ignores_weights
    assert MergeSpec.model_validate({"lambda": 1.0}) == MergeSpec(scale=1.0)


def test_a_spec_survives_its_own_writing() -> None:
    how = MergeSpec(
        method="dare_ties", scale=0.5, density={"ocr": 0.5}, filters=[{"match": "mlp", "weights": {"ocr": 1}}]
    )  # type: ignore[list-item]
    assert MergeSpec.model_validate(how.model_dump(mode="json", by_alias=True)) == how
    for method in METHODS:
        how = MergeSpec(method=method, fisher={"a": __file__} if method == "fisher" else {})  # type: ignore[arg-type]
        assert MergeSpec.model_validate(how.model_dump(mode="json", by_alias=True)) == how


@pytest.mark.parametrize(
    ("how", "weights", "says"),
    [
        ({}, [0.5, 0.6], r"sum to 1.1, not to 1"),
        ({}, [0.5, float("inf")], "'ocr' is inf"),
        ({}, [1.5, -0.5], "'ocr' is -0.5"),
        ({}, [1.0], "found 1 for 2 experts"),
        ({"normalize": True, "allow_negative": True}, [0.5, -0.5], "cannot be normalised"),
        ({"method": "ties"}, [1.0, 1.0], "sum to 2"),
        ({"filters": [{"match": "mlp", "weights": {"ocr": 0.9}}]}, [0.5, 0.5], "filter 'mlp'.*sum to 1.4"),
        ({"sections": {"text_decoder": {"ocr": 0.9}}}, [0.5, 0.5], "section text_decoder"),
        ({"filters": [{"match": "mlp", "weights": {"ocrs": 0.9}}]}, [0.5, 0.5], "'ocrs' is no expert"),
        ({"method": "ties", "density": {"o\ncr": 0.5}}, [0.5, 0.5], "'o cr' is no expert"),
        ({"normalize": True, "gradients": {"ocr": [1, 0]}}, [0.0, 1.0], "last layer.*cannot be normalised"),
        ({"method": "task_arithmetic", "gradients": {"ocr": [1, -1]}}, [0.5, 0.5], "last layer.*'ocr' is -0.5"),
        ({"method": "fisher", "fisher": {"ocr": __file__}}, [0.5, 0.5], "no file of Fisher values for 'general'"),
    ],
    ids=str,
)
def test_weights_are_refused(how: dict[str, Any], weights: list[float], says: str) -> None:
    with pytest.raises(DataError, match=says):
        check_weights(MergeSpec.model_validate(how), EXPERTS, weights)


def test_weights_are_taken() -> None:
    for how, weights in (
        (MergeSpec(), [0.3, 0.7 + 5e-7]),
        (MergeSpec(normalize=True), [3.0, 1.0]),
        (MergeSpec(method="task_arithmetic"), [1.0, 1.0]),
        (MergeSpec(allow_negative=True), [1.5, -0.5]),
        (MergeSpec(method="model_stock"), [1.0, 1.0]),
    ):
        check_weights(how, EXPERTS, weights)


def test_numbers_of_experts() -> None:
    with pytest.raises(DataError, match="exactly 2 experts; found 3"):
        check_weights(MergeSpec(method="slerp"), ["a", "b", "c"], [0.2, 0.2, 0.6])
    with pytest.raises(DataError, match="two experts or more"):
        check_weights(MergeSpec(), ["a"], [1.0])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (TEXT, "text_decoder"),
        ("lm_head.weight", "text_decoder"),
        (PROJECTOR, "multi_modal_projector"),
        (TOWER, "vision_tower"),
        ("model.visual.blocks.0.attn.qkv.weight", "vision_tower"),
        ("visual.merger.mlp.0.weight", "multi_modal_projector"),
        ("model.mlp1.1.weight", "multi_modal_projector"),
        ("model.connector.modality_projection.proj.weight", "multi_modal_projector"),
    ],
)
def test_parts_of_a_model(name: str, part: str) -> None:
    assert section_of(name) == part


def test_which_tensors_take_part() -> None:
    names = [
        TEXT,
        PROJECTOR,
        TOWER,
        "model.language_model.embed_tokens.weight",
        "lm_head.weight",
        "model.visual.patch_embed.w",
    ]

    def taken(**settings_: Any) -> list[bool]:
        return [merges(MergeSpec.model_validate(settings_), name) for name in names]

    assert taken() == [True] * 6
    assert taken(include="lora") == [True, False, False, False, False, False]
    assert taken(include="full") == [True, True, False, True, True, False]
    assert taken(include=["mlp", "^lm_head"], exclude=["tower"]) == [True, False, False, False, True, False]
    assert taken(sections={"vision_tower": "base"}) == [True, True, False, True, True, False]


def test_weights_by_name_part_and_depth() -> None:
    how = MergeSpec.model_validate(
        {
            "normalize": True,
            "filters": [{"regex": r"layers\.1\.mlp", "weights": {"ocr": 0.9}}],
            "sections": {"multi_modal_projector": {"general": 0.0, "ocr": 1.0}},
            "gradients": {"ocr": [0, 1, 0]},
        }
    )

    def found(name: str) -> list[float]:
        return weights_for(how, name, EXPERTS, [0.5, 0.5], 5)

    assert found(TEXT) == [0.5, 0.45]
    assert found(TEXT.replace("layers.1.", "layers.2.")) == [0.5, 0.5]
    assert found("model.embed_tokens.weight") == [0.5, 0.0] and found("lm_head.weight") == [0.5, 0.0]
    assert found(PROJECTOR) == [0.0, 1.0] and found(TOWER) == [0.5, 0.5]
    base, one, two = torch.zeros(2), torch.ones(2), 2 * torch.ones(2)
    merged = merge_tensor(how, TEXT, base, [one, two], [0.5, 0.5], names=EXPERTS, layers=5)
    torch.testing.assert_close(merged, torch.full((2,), (0.5 + 0.9) / 0.95))
    with pytest.raises(DataError, match="number of layers"):
        merge_tensor(how, TEXT, base, [one, two], [0.5, 0.5], names=EXPERTS)
    with pytest.raises(DataError, match="cannot be normalised"):
        merge_tensor(how, "model.embed_tokens.weight", base, [one, two], [0.0, 1.0], names=EXPERTS, layers=5)


@given(st.integers(1, 40), st.data())
@settings(max_examples=30, deadline=None)
def test_depth_runs_from_0_to_1(layers: int, data: st.DataObject) -> None:
    layer = data.draw(st.integers(0, layers - 1))
    depth = depth_of(f"model.layers.{layer}.mlp.up_proj.weight", layers)
    assert depth == (layer / (layers - 1) if layers > 1 else 0)


HOSTILE = "evil |`x`|\n---\nlicense: mit\n```\n<script>"


def test_card_says_what_was_merged(tmp_path: Path) -> None:
    how = MergeSpec(method="ties", density={HOSTILE: 0.5}, exclude=["```", "norm"])
    text = card(how, Source("base", "apache-2.0"), [Source("one", "mit", "small"), Source(HOSTILE)], [0.25, 0.75],
                counts={"merged": 5, "copied": 2}, notes=["by hand\n# not a heading"])  # fmt: skip
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {"base_model": ["base", "one", " ".join(HOSTILE.split())], "base_model_relation": "merge",
                     "license": "other", "tags": ["merge"]}  # fmt: skip
    assert "| expert | one | 0.25 | mit | small |" in text and "5 merged, 2 copied" in text
    assert "\n# not" not in text and "<script>" not in text.split("## Settings")[0].split("---\n", 2)[2]
    block = text.split("````yaml\n")[1].split("````")[0]
    assert MergeSpec.model_validate(yaml.safe_load(block)) == how
    fishers = MergeSpec(method="fisher", fisher={"one": __file__, "two": __file__})
    text = card(fishers, Source("b"), [Source("one"), Source("two")], [0.5, 0.5], adapter=True)
    assert str(Path(__file__).parent) not in text and "peft" in text
    (tmp_path / "README.md").write_text(card(MergeSpec(), Source("b", "mit"), [Source("e", "mit")] * 2, [0.5, 0.5]))
    assert licence_of(tmp_path) == "mit"


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: other\nlicense_name: tongyi-qianwen\n---\n", "tongyi-qianwen"),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\nlicense: &a mit\nx: *a\n---\n", None),
        ("---\n{{{\n---\n", None),
        ("no front matter", None),
    ],
)
def test_licences_of_other_cards(text: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence_of(tmp_path) == licence
    assert licence_of(tmp_path / "nowhere") is None
