"""The vocabulary: typed things that pass between steps of different rooms.

What only one room uses is declared in that room. Column names and types of ``Rows`` tables stand in
``results/schema.sql``; ``results.tables.arrow_schema(name)`` gives them as a pyarrow schema.
"""

from __future__ import annotations

from runner.artifacts.audit import (
    Biases,
    Bindings,
    Captions,
    CheckedTargets,
    ImageIndex,
    MeasuredGroups,
    RetrievedImages,
    Separability,
    Verdicts,
)
from runner.artifacts.classification import (
    Categories,
    CircleAnswers,
    ClosedAnswers,
    Datasets,
    EloGames,
    FewShotPool,
    ImageFeatures,
    Judgements,
    Neighbours,
    OpenAnswers,
    OpenScores,
    Vocabulary,
)
from runner.artifacts.debiasing import AttributedImages, DebiasedTexts, DebiasPrompts, SparseCoder
from runner.artifacts.heads import ConceptDictionary, EditedClip, HeadConcepts, HeadDirections, HeadJudgements
from runner.artifacts.lvlm import (
    Conversations,
    Experts,
    FinetunedLvlm,
    LvlmLoss,
    LvlmSpeed,
    MergedLvlm,
    MixtureRanking,
    Mixtures,
    MixtureScores,
    PrunedLvlm,
    PruneScores,
    Retained,
    VqaItems,
    VqaScores,
)
from runner.artifacts.parts import ConceptAnswers, MaskedPictures, PartFeatures, PartImages

__all__ = [
    "AttributedImages",
    "Biases",
    "Bindings",
    "Captions",
    "Categories",
    "CheckedTargets",
    "CircleAnswers",
    "ClosedAnswers",
    "ConceptAnswers",
    "ConceptDictionary",
    "Conversations",
    "Datasets",
    "DebiasPrompts",
    "DebiasedTexts",
    "EditedClip",
    "EloGames",
    "Experts",
    "FewShotPool",
    "FinetunedLvlm",
    "HeadConcepts",
    "HeadDirections",
    "HeadJudgements",
    "ImageFeatures",
    "ImageIndex",
    "Judgements",
    "LvlmLoss",
    "LvlmSpeed",
    "MaskedPictures",
    "MeasuredGroups",
    "MergedLvlm",
    "MixtureRanking",
    "MixtureScores",
    "Mixtures",
    "Neighbours",
    "OpenAnswers",
    "OpenScores",
    "PartFeatures",
    "PartImages",
    "PruneScores",
    "PrunedLvlm",
    "Retained",
    "RetrievedImages",
    "Separability",
    "SparseCoder",
    "Verdicts",
    "Vocabulary",
    "VqaItems",
    "VqaScores",
]
