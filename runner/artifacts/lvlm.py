"""Vision-language models: conversations to train on, questions to answer, smaller and merged models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from runner.steps import Arrays, Artifact, Folder, Rows, Table


@dataclass(frozen=True)
class Conversations(Artifact):
    """Records to train, calibrate or measure a loss on: pictures and turns.

    ``about``: ``{"name", "domains": [in order], "splits", "licences": {domain or source: text}, "notes": [...]}``. ``corpus``:
    source specs from which the pictures' bytes can be read (as in ``Datasets``). ``records``, in a fixed order: ``record_id``,
    ``domain`` (where it comes from; what mixtures weigh), ``split`` (``train``, ``eval``), ``source_id`` and ``uris`` (list; empty: text
    only), ``turns`` (JSON ``[["user", text], ["assistant", text], ...]``; ``<image>`` stands where a picture is shown; a first turn
    ``["system", text]`` may come before), ``group`` (whatever was drawn together: resampled together; NULL where records stand alone).
    """

    about: dict[str, Any]
    corpus: list[dict[str, Any]]
    records: Table


@dataclass(frozen=True)
class VqaItems(Artifact):
    """Questions about pictures with the answers that count, of one or several benchmarks.

    ``benchmarks``: in order, ``{"benchmark", "known" (key of the public one, or None), "split", "metric" (of a scorer in
    ``runner.nodes.vqa``), "aggregate" (how items become the score), "full_scale" (2000 for MME perception; 1 otherwise), "n_total"
    (before any limit), "limit" (None: all), "licence", "notes"}``. ``corpus`` as in ``Datasets``.
    """

    benchmarks: list[dict[str, Any]]
    corpus: list[dict[str, Any]]
    items: Annotated[Table, Rows("vqa_item")]


@dataclass(frozen=True)
class VqaScores(Artifact):
    """What one model answered, item by item, and its scores. ``model``: ``{"name", "identity", "kind", "small", "notes"}``;
    ``label``: how the results call it. ``items``: what aggregates need of the questions (``benchmark``, ``item_id``, ``category``, ``pair_id``,
    ``answers``), empty for imported scores without items."""

    benchmarks: list[dict[str, Any]]
    model: dict[str, Any]
    label: str
    settings: dict[str, Any]
    items: Table
    answers: Annotated[Table, Rows("vqa_answer")]
    scores: Annotated[Table, Rows("vqa_score")]


@dataclass(frozen=True)
class Retained(Artifact):
    """Models beside the original they were made from, on the same items."""

    bench_score: Annotated[Table, Rows("bench_score")]
    bench_aggregate: Annotated[Table, Rows("bench_aggregate")]


@dataclass(frozen=True)
class LvlmLoss(Artifact):
    """Loss of one model on conversations, by domain. ``records``: ``record_id``, ``domain``, ``group``, ``nll`` (sum, nats), ``tokens``."""

    label: str
    perplexity: Annotated[Table, Rows("text_perplexity")]
    records: Table


@dataclass(frozen=True)
class LvlmSpeed(Artifact):
    """How fast models answer on this machine. ``settings``: prompt and reply lengths, batch, device, dtype."""

    settings: dict[str, Any]
    timing: Annotated[Table, Rows("prune_timing")]


@dataclass(frozen=True)
class FinetunedLvlm(Artifact):
    """A model after training. ``adapter``: folder of peft (LoRA, and the projector where it trained; empty where nothing of the
    kind trained). ``checkpoint``: the whole model, LoRA merged, in the layout it was loaded from (empty unless asked for).
    ``summary``: mode, losses, counts, data, seconds, dropped records."""

    adapter: Folder
    checkpoint: Folder
    log: Annotated[Table, Rows("recovery_step")]
    timing: Annotated[Table, Rows("prune_timing")]
    summary: dict[str, Any]


# --- pruning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PruneScores(Artifact):
    """Scores of layers and of coupled units, one pass over the calibration data for all criteria.

    ``model``: ``{"name", "identity", "architecture", "layers", "heads", "kv_heads", "head_dim", "intermediate_size"}``;
    ``calibration``: data, records used and dropped, tokens, seed; ``criteria``: those computed, in order. ``distances``: of the
    criterion ``angular``: ``start``, ``n``, ``distance`` (mean over tokens, 0..1). ``means``: of the criterion ``flap``: mean input of
    o and of down by layer (``<layer>.attention``, ``<layer>.mlp``), for the bias that makes up for a cut; else empty.
    """

    model: dict[str, Any]
    calibration: dict[str, Any]
    criteria: list[str]
    layer_scores: Annotated[Table, Rows("prune_layer_score")]
    unit_scores: Annotated[Table, Rows("prune_unit_score")]
    distances: Table
    timing: Annotated[Table, Rows("prune_timing")]
    means: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class PrunedLvlm(Artifact):
    """A model with structures removed. ``checkpoint``: folder by ``format`` (``uniform``, ``manifest``, ``masked``); ``plan``: what is
    kept: ``{"layers": [original indices], "heads": [[query heads] per kept layer], "kv_heads": [...], "neurons": [...]}``."""

    checkpoint: Folder
    format: str
    plan: dict[str, Any]
    layer_scores: Annotated[Table, Rows("prune_layer_score")]
    unit_scores: Annotated[Table, Rows("prune_unit_score")]
    models: Annotated[Table, Rows("prune_model")]
    timing: Annotated[Table, Rows("prune_timing")]


@dataclass(frozen=True)
class PrunePlan(Artifact):
    """What a cut would leave, from the config alone. ``models``: ``bytes`` are expected ones; ``layers_kept`` is empty where data decide
    which stay. ``notes``: what only data can tell."""

    models: Annotated[Table, Rows("prune_model")]
    notes: list[str]


# --- merging ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experts(Artifact):
    """Models trained from one base, checked to belong together. ``base``: ``{"name", "identity", "folder"}``. ``models``, in order:
    ``{"name", "kind" (``lora``, ``full``), "path" (absolute, or relative to ``folder``), "weights" (share of each domain it was
    trained on, or None), "summary"}``. ``domains``: the order of all weights."""

    base: dict[str, Any]
    domains: list[str]
    models: list[dict[str, Any]]
    folder: Folder
    experts: Annotated[Table, Rows("dmo_expert")]
    geometry: Annotated[Table, Rows("dmo_geometry")]
    log: Annotated[Table, Rows("recovery_step")]


@dataclass(frozen=True)
class MergedLvlm(Artifact):
    """One merge of experts. ``checkpoint``: the whole model in the base's layout; ``adapter``: a folder of peft on the base that is the
    same merge (empty unless the merge is linear and all experts are LoRA). ``summary``: weights, method, counts."""

    checkpoint: Folder
    adapter: Folder
    merges: Annotated[Table, Rows("dmo_merge")]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Mixtures(Artifact):
    """Points of the simplex over ``domains``; rows of ``dmo_mixture`` in order, ids unique."""

    domains: list[str]
    mixtures: Annotated[Table, Rows("dmo_mixture")]


@dataclass(frozen=True)
class MixtureScores(Artifact):
    """Scores of a model for each mixture: merged (``kind`` proxy), really trained (true) or predicted by a regression
    (``regression/MODEL``).

    ``tasks``: ``{"task", "key", "higher_is_better", "group", "scale"}`` in order. ``items``: one row a mixture, task and item with ``value``
    and ``group`` (for paired intervals): ``mixture_id``, ``task``, ``item_id``, ``group``, ``value``.
    """

    domains: list[str]
    kind: str
    tasks: list[dict[str, Any]]
    mixtures: Annotated[Table, Rows("dmo_mixture")]
    merges: Annotated[Table, Rows("dmo_merge")]
    scores: Annotated[Table, Rows("dmo_score")]
    items: Table


@dataclass(frozen=True)
class TrainedScores(MixtureScores):
    """Scores of really trained models; ``projections``: how they lie to the experts, empty where no experts were given."""

    projections: Annotated[Table, Rows("dmo_projection")]


@dataclass(frozen=True)
class MixtureSearch(MixtureScores):
    """Scores of the mixtures that a search tried, with its rounds. ``found``: ``{"strategy", "mixture_id", "weights", "value", "rounds",
    "evaluated"}``; ``value``: of the objective over all items."""

    surrogates: Annotated[Table, Rows("dmo_surrogate")]
    found: dict[str, Any]


@dataclass(frozen=True)
class MixtureRanking(Artifact):
    """Which mixture to train on and how far that can be trusted. ``chosen``: ``{"mixture_id", "weights", "value"}``;
    ``indistinguishable``: ids of those whose paired interval against the best holds 0. ``costs``: what the ranking took beside what
    training on every mixture would take."""

    domains: list[str]
    chosen: dict[str, Any]
    indistinguishable: list[str]
    objectives: Annotated[Table, Rows("dmo_objective")]
    validity: Annotated[Table, Rows("dmo_validity")]
    surrogates: Annotated[Table, Rows("dmo_surrogate")]
    costs: Annotated[Table, Rows("dmo_cost")]
