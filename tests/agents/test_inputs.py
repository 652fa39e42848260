"""Specs that cannot be audited are refused when they are compiled, with the place named."""

import pytest

from runner.errors import SpecError
from runner.spec import compile_text

SPEC = """
name: audit
models:
  llm: {{provider: openai, model: tiny, base_url: "http://127.0.0.1:9/v1"}}
steps:
  biases: {{uses: c2b.propose, llm: $llm, {fields}}}
  captions: {{uses: c2b.caption, llm: $llm, biases: $biases}}
results: r.duckdb
"""
TASK = 'task: "Tell which animal it is."'


def compiled(tmp_path, fields):
    return compile_text(SPEC.format(fields=fields), tmp_path / "spec.yaml", tmp_path)


def test_a_sound_spec_compiles(tmp_path):
    spec = compiled(
        tmp_path, f"{TASK}, classes: [cat, dog], targets: [cat], include: [{{attribute: age, values: [young, old]}}]"
    )
    assert "biases" in spec.variants[0].steps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('task: "", classes: [cat, dog]', "task"),
        ("task: animals, classes: [cat, dog]", "describe the task in a sentence"),
        (f"{TASK}, classes: []", "classes"),
        (f"{TASK}, classes: [cat]", "at least two classes"),
        (f"{TASK}, classes: [cat, ' Cat ']", "same name"),
        (f"{TASK}, classes: [n02123045, LABEL_3]", "caption_names"),
        (f"{TASK}, classes: [cat, dog], targets: [cow]", "no class of the task"),
        (f"{TASK}, classes: [cat, dog], caption_names: {{cow: a cow}}", "no class"),
        (f"{TASK}, classes: [cat, dog], include: [{{attribute: age, values: [old, OLD]}}]", "same name"),
        (f"{TASK}, classes: [cat, dog], max_attributes: 400", "max_attributes"),
    ],
)
def test_what_cannot_be_audited_is_refused(tmp_path, fields, message):
    with pytest.raises(SpecError, match=message):
        compiled(tmp_path, fields)


def test_ids_with_caption_names_and_one_binary_output_are_fine(tmp_path):
    compiled(tmp_path, f"{TASK}, classes: [n02123045, LABEL_3], caption_names: {{n02123045: tabby, LABEL_3: dog}}")
    compiled(tmp_path, f"{TASK}, classes: [Smiling], outputs: binary")
