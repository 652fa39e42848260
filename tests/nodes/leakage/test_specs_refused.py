"""Specs of the dependence audit, of discovery and of concepts that cannot be meant are refused when they are compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import SpecError
from runner.spec import compile_text

SPEC = """
name: t
models: {{vit: {{provider: timm, name: tiny_planted}}}}
steps:
  images: {{uses: parts.planted}}
  it: {{uses: leakage.{step}, backbone: $vit, images: $images, {params}}}
results: r.duckdb
"""


@pytest.mark.parametrize(
    ("step", "params", "said"),
    [
        ("dependence", "layers: []", "no layer is named"),
        ("dependence", "layers: [1, 1]", "named twice"),
        ("discover", "seeds: [3, 4, 3]", "3 stands there twice"),
        ("discover", "arch: [single, single]", "'single' stands there twice"),
        ("discover", "low_confidence: [0.1, 0.1]", "0.1 stands there twice"),
        ("fit_concepts", "penalty: .inf", "finite"),
        ("fit_concepts", "penalty: .nan", "finite"),
    ],
)
def test_specs_that_cannot_be_meant(tmp_path: Path, step: str, params: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_text(SPEC.format(step=step, params=params), tmp_path / "spec.yaml", tmp_path)
    told = " ".join(f"{p.message} {p.suggestion} {p.allowed}" for p in caught.value.problems)
    assert said in told


@pytest.mark.parametrize(
    ("step", "params"),
    [
        ("dependence", "layers: [0, -1]"),
        ("dependence", "layers: last"),
        ("dependence", "layers: all"),
        ("discover", "seeds: [3, 4], arch: [two_stage, single], low_confidence: [0.1, 0.2]"),
        ("fit_concepts", "penalty: 10"),
    ],
)
def test_plain_specs_are_meant(tmp_path: Path, step: str, params: str) -> None:
    assert compile_text(SPEC.format(step=step, params=params), tmp_path / "spec.yaml", tmp_path).variants
