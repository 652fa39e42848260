"""Specs of debiasing that cannot be meant are refused when they are compiled, in words that say what to do."""

import pytest

from runner.errors import SpecError
from runner.spec import compile_text

SPEC = """
name: t
models:
  clip: {{provider: open_clip, checkpoint: asset:small-clip}}
steps:
  pictures: {{uses: datasets.compose, name: birds,
    objects: {{a: {{sets: [google-emoji], captions: [cat]}}, b: {{sets: [google-emoji], captions: [dog]}}}},
    backgrounds: {{land: {{source: cifar10-train-sample, labels: [horse]}},
                   water: {{source: cifar10-train-sample, labels: [ship]}}}},
    splits: {{train: {{pictures: 10}}}}}}
  features: {{uses: classify.features, encoder: $clip, images: $pictures}}
  prompts: {{uses: sem.prompts, clip: $clip, attribute: place, classes: [land, water], queries: [a bird]}}
  sae: {{uses: sem.train_sae, clip: $clip, texts: {{words: [cat, dog]}}, latents: 8}}
  texts: {{uses: debias.texts, clip: $clip, prompts: $prompts, sae: $sae, methods: [vanilla]}}
  words: {{uses: sith.dictionary, clip: $clip, concepts: {{list: [cat, dog, sea]}}}}
  heads: {{uses: sith.decompose, clip: $clip, layers: [-1], image_mean: zero}}
  x: {{{step}}}
results: r.duckdb
"""
PROMPTS = "uses: sem.prompts, attribute: place, classes: [land, water]"
RETRIEVAL = "uses: debias.retrieval, features: $features, images: $pictures, texts: [$texts], attribute: place"
STUDY = "uses: debias.cp_bn, clip: $clip, prompts: $prompts, methods: [vanilla], subjects: [nurse, pilot]"
EXPLAIN = "uses: sith.explain, directions: $heads, dictionary: $words"
TRAIN, CATS = "uses: sem.train_sae, clip: $clip", "texts: {words: [cat, dog]}"
DEBIAS = "uses: debias.texts, clip: $clip, prompts: $prompts"
EDIT = "uses: sith.edit, clip: $clip, directions: $heads"
WORDS = "uses: sith.dictionary, clip: $clip, concepts"
COMPOSED = (
    "uses: datasets.compose, objects: {{a: {{sets: [google-emoji], captions: [cat]}}, b: {{sets: [google-emoji], captions: [dog]}}}}, "
    "backgrounds: {{land: {{source: {source}, labels: [horse]}}, w: {{source: cifar10-train-sample, labels: [ship]}}}}, "
    "splits: {{train: {{pictures: 10}}}}"
)


def compiled(tmp_path, step):
    return compile_text(SPEC.format(step=step), tmp_path / "spec.yaml", tmp_path)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (f"{PROMPTS}, queries: [a bird, a bird]", "'a bird' and 'a bird', which are the same name"),
        (f"{PROMPTS}, queries: []", "at least 1 item"),
        (f'{PROMPTS}, queries: ["  "]', "hold an empty name"),
        (f"{PROMPTS}, queries: stereotype", '"stereotypes"'),
        (f"{RETRIEVAL}, values: [land, land]", "'land' stands there twice"),
        (f"{STUDY}, values: [male, female, male]", "'male' stands there twice"),
        (COMPOSED.format(source="cifar10-train-sampl"), "did you mean cifar10-train-sample?"),
        (COMPOSED.format(source="{foldr: x}"), "folder"),
        (f"{WORDS}: {{list: [cat], wordnet: physical}}", "give one of them"),
        (f"{EXPLAIN}, k: [3, 3]", "a value stands twice in [3, 3]"),
        (f"{EXPLAIN}, coherence: [0.1, 0.1]", "a value stands twice"),
        (f"{TRAIN}, {CATS}, latents: 64, levels: [8, 128]", "larger than the number of latents, 64"),
        (f"{TRAIN}, {CATS}, latents: 64, architecture: relu_l1, levels: [8]", "relu_l1 takes no levels"),
        (f"{TRAIN}, {CATS}, latents: 64, architecture: topk, levels: [8, 9]", "topk takes one level"),
        (TRAIN, "modality text needs texts"),
        (f"{TRAIN}, {CATS}, images: $features", "modality text takes no images"),
        (f"{DEBIAS}, methods: [vanilla, sem]", "sem_bi needs an autoencoder"),
        (f"{DEBIAS}, methods: [sae_top_k]", "sae_top_k needs an autoencoder"),
        (EDIT, "give preset, rules or match"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, step, said):
    with pytest.raises(SpecError) as refused:
        compiled(tmp_path, step)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "step",
    [
        f"{PROMPTS}, queries: stereotypes",
        f"{PROMPTS}, queries: [a bird, a cat]",
        RETRIEVAL,
        f"{RETRIEVAL}, values: [land, water]",
        f"{STUDY}, values: [male, female]",
        COMPOSED.format(source="cifar10-train-sample"),
        COMPOSED.format(source="{packaged: cifar10-train-sample}"),
        f"{WORDS}: {{list: [cat, dog]}}",
        f"{EXPLAIN}, k: [3, 5], coherence: 0.1",
        f"{TRAIN}, {CATS}, latents: 64, levels: [8, 64]",
        f"{TRAIN}, {CATS}",
        f"{TRAIN}, {CATS}, images: $features, modality: both",
        f"{DEBIAS}, sae: $sae, methods: [vanilla, sem, sae_top_k]",
        f"{DEBIAS}, methods: [{{sem: {{space: clip}}}}]",
        f"{EDIT}, preset: spurious",
        f"{EDIT}, match: {{regex: sea}}",
        f"{EDIT}, rules: [{{when: {{top: 3}}, multiply: 0}}]",
    ],
)
def test_what_can_be_meant_compiles(tmp_path, step):
    assert "x" in compiled(tmp_path, step).variants[0].steps
