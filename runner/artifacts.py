"""The vocabulary: typed things that pass between steps of different rooms.

What only one room uses is declared in that room. Column names and types of ``Rows`` tables stand in
``results/schema.sql``; ``results.tables.arrow_schema(name)`` gives them as a pyarrow schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from runner.steps import Arrays, Artifact, Folder, Rows, Table


@dataclass(frozen=True)
class Biases(Artifact):
    """Proposed bias attributes with values, per target class (C2B stage 1).

    ``task``: ``{"description", "outputs": [{"name", "type", "values", "caption_names"}]}`` as the audit understood it;
    ``targets``: the audited classes in order; ``attributes``: kept and dropped proposals with reasons.
    """

    task: dict[str, Any]
    targets: list[str]
    attributes: Annotated[Table, Rows("c2b_attribute")]


@dataclass(frozen=True)
class Captions(Artifact):
    """One or more captions for each (target, attribute, value), and neutral captions per target."""

    task: dict[str, Any]
    targets: list[str]
    captions: Annotated[Table, Rows("c2b_caption")]


@dataclass(frozen=True)
class ImageIndex(Artifact):
    """Embedded images: an index folder (``retrieval.index``) and what went into it."""

    index: Folder
    sources: Annotated[Table, Rows("corpus_source")]


@dataclass(frozen=True)
class RetrievedImages(Artifact):
    """Images per caption, ranked and filtered, with the captions that asked for them.

    ``corpus``: source specs (as ``runner.data.sources.open_source`` takes them) from which the bytes can be read again;
    ``retrieval``: every candidate with its fate; ``counts``: per group how many were fetched, rejected and kept.
    """

    task: dict[str, Any]
    targets: list[str]
    corpus: list[dict[str, Any]]
    encoder: dict[str, Any]
    captions: Annotated[Table, Rows("c2b_caption")]
    retrieval: Annotated[Table, Rows("c2b_retrieval")]
    counts: Annotated[Table, Rows("c2b_retrieval_count")]


@dataclass(frozen=True)
class Bindings(Artifact):
    """Which measurement of the picture stands for each proposed attribute, with its values in the order of the measurement."""

    bindings: Annotated[Table, Rows("c2b_binding")]


@dataclass(frozen=True)
class CheckedTargets(Artifact):
    """What a verifier, which is not the retriever, saw on the retrieved pictures.

    ``rejects``: pictures whose ``checks.shows`` is false are left out of the assessment. ``precisions``: per caption group.
    """

    rejects: bool
    verifier: Annotated[Table, Rows("c2b_verifier")]
    checks: Annotated[Table, Rows("c2b_target_check")]
    value_checks: Annotated[Table, Rows("c2b_value_check")]
    precisions: Annotated[Table, Rows("c2b_precision")]


@dataclass(frozen=True)
class MeasuredGroups(Artifact):
    """Groups formed by measuring the target's pictures instead of believing a caption.

    ``precisions`` are those of the groups formed here, where a verifier looked at the pictures.
    """

    measurements: Annotated[Table, Rows("c2b_measurement")]
    bins: Annotated[Table, Rows("c2b_bin")]
    members: Annotated[Table, Rows("c2b_measured_member")]
    precisions: Annotated[Table, Rows("c2b_precision")]


@dataclass(frozen=True)
class Separability(Artifact):
    """Whether the values of each attribute can be told apart in what was retrieved for them."""

    groups: Annotated[Table, Rows("c2b_separability")]


@dataclass(frozen=True)
class Verdicts(Artifact):
    """Accuracy, bias score, tests and verdict per group (C2B stage 3)."""

    task: dict[str, Any]
    targets: list[str]
    settings: dict[str, Any]
    groups: Annotated[Table, Rows("c2b_group")]
    tests: Annotated[Table, Rows("c2b_attribute_test")]
    pooled: Annotated[Table, Rows("c2b_pooled_test")]
    gate: Annotated[Table, Rows("c2b_gate")]
    predictions: Annotated[Table, Rows("c2b_prediction")]
    members: Annotated[Table, Rows("c2b_member")]
    examples: Annotated[Table, Rows("c2b_example")]


# --- classification, closed and open world -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Datasets(Artifact):
    """One or several classification datasets: the pictures of their splits and the text of each picture's class.

    ``datasets``: in order, ``{"dataset", "known", "group", "classes", "domain_noun", "template", "licence"}``: ``known`` is
    the public dataset's key whatever its name here (or None, or missing), ``classes`` are the target texts by class index,
    ``group`` one of the protocol's (or None), ``domain_noun`` what fine-grained questions call the subject (or None),
    ``template`` the customary CLIP prompt with one ``{}``. ``corpus``: source specs from which the bytes can be read.
    ``images``: sorted by dataset, split, order of the split.
    """

    datasets: list[dict[str, Any]]
    corpus: list[dict[str, Any]]
    images: Annotated[Table, Rows("dataset_image")]


@dataclass(frozen=True)
class ImageFeatures(Artifact):
    """Embeddings of a dataset's pictures: ``features["features"]`` float32 [n, dim], unit norm, row i for row i of ``rows``.

    ``encoder``: ``{"name", "family", "identity", "dim", "logit_scale"}``. ``rows``: dataset, split, sample_id, target,
    class_index. Pictures that cannot be read have no row.
    """

    datasets: list[dict[str, Any]]
    encoder: dict[str, Any]
    features: Arrays
    rows: Table


@dataclass(frozen=True)
class FewShotPool(Artifact):
    """Labelled pictures, at most ``shots`` a class drawn with ``seed``, shared by all few-shot methods.

    ``corpus`` as in ``Datasets``.
    """

    datasets: list[dict[str, Any]]
    corpus: list[dict[str, Any]]
    pool: Annotated[Table, Rows("few_shot_pool")]
    shots: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Neighbours(Artifact):
    """Pool pictures for each query, in the order they are shown. ``shots`` and ``seed`` are those of the pool."""

    encoder: dict[str, Any]
    how: str
    neighbours: Annotated[Table, Rows("pool_neighbour")]
    shots: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Vocabulary(Artifact):
    """Texts to answer with, embedded. ``index``: a folder that ``runner.models.contrastive.vocabulary`` reads and writes."""

    encoder: dict[str, Any]
    index: Folder


@dataclass(frozen=True)
class ClosedAnswers(Artifact):
    """Answers of one method that was given the class list."""

    datasets: list[dict[str, Any]]
    method: str
    settings: dict[str, Any]
    answers: Annotated[Table, Rows("closed_world_answer")]


@dataclass(frozen=True)
class OpenAnswers(Artifact):
    """Free-text answers of one method that was given no class list; a picture without one has a ``failure``."""

    datasets: list[dict[str, Any]]
    method: str
    settings: dict[str, Any]
    answers: Annotated[Table, Rows("owc_prediction")]


@dataclass(frozen=True)
class CircleAnswers(OpenAnswers):
    """Answers given with pseudo-labelled context, the context pictures and the history of their labels."""

    contexts: Annotated[Table, Rows("circle_context")]
    labels: Annotated[Table, Rows("circle_label")]
    calls: Annotated[Table, Rows("circle_call")]


@dataclass(frozen=True)
class Judgements(Artifact):
    """What a language model said of each distinct pair of answer and label."""

    judge: str
    parse: str
    judgements: Annotated[Table, Rows("owc_judgement")]


@dataclass(frozen=True)
class Categories(Artifact):
    """The six-way category of each distinct pair of answer and label."""

    judge: str
    categories: Annotated[Table, Rows("owc_category")]


@dataclass(frozen=True)
class OpenScores(Artifact):
    """Scores of free-text answers, one row an answer, with means and intervals. ``settings``: encoder, chunker, judge."""

    settings: dict[str, Any]
    scores: Annotated[Table, Rows("owc_score")]
    concepts: Annotated[Table, Rows("owc_concept")]
    summary: Annotated[Table, Rows("owc_summary")]
    cells: Annotated[Table, Rows("owc_error_cell")]


@dataclass(frozen=True)
class EloGames(Artifact):
    """Pairs of answers drawn to be compared, with the outcome for the first (1, 0.5, 0)."""

    criterion: str
    players: list[str]
    games: Annotated[Table, Rows("owc_elo_game")]


# --- pictures with attributes, and queries that should not depend on them ----------------------------------------------


@dataclass(frozen=True)
class AttributedImages(Datasets):
    """Datasets whose pictures also carry attributes (gender, race, place, skin tone, drawing style).

    ``attributes``: one row a picture and attribute. ``about``: per dataset ``{"dataset", "attributes": {name: [values in
    order]}, "class_attribute"}``: the attribute that ``images.target`` repeats, or None.
    """

    about: list[dict[str, Any]]
    attributes: Annotated[Table, Rows("dataset_attribute")]


@dataclass(frozen=True)
class DebiasPrompts(Artifact):
    """Texts that a debiasing method needs for one protected or spurious attribute.

    ``attribute``; ``classes``: its values in order; ``queries``: what is searched or classified with, in order. ``prompts``:
    rows of kind ``query`` (idx 0 .. ), ``diverse``, ``bias`` (class_name = a value), ``paraphrase`` (query = which; idx 0 is
    the query itself), ``spurious`` (class_name = a value), ``candidate`` (query and class_name), ``augmented`` (query and
    class_name), ``harmful`` and ``helpful`` (pairs of rows with the same idx: class_name ``a`` and ``b``; query = which or
    NULL for all), ``scene`` (``{target}`` and ``{bias}`` in the text) with ``target_word`` (query = which) and ``bias_word``
    (class_name = a value), which stand for the two, ``content`` (query = which).
    """

    attribute: str
    classes: list[str]
    queries: list[str]
    prompts: Annotated[Table, Rows("prompt_set")]


@dataclass(frozen=True)
class DebiasedTexts(Artifact):
    """Query embeddings by method. ``methods``: ``{"label", "method", "settings", "uses_images"}``, in order.

    ``vectors``: ``"<label>"`` float32 [queries, dim], unit norm, rows in the order of ``queries``; where a method also acts on
    images, ``"<label>/image_map"`` float32 [dim, dim] for row vectors: image embeddings times it, then scaled to unit norm
    (or [queries, dim, dim], one for each query). ``"/encoder"`` uint8: the encoder's identity, for who gets the arrays alone.
    """

    encoder: dict[str, Any]
    attribute: str
    classes: list[str]
    queries: list[str]
    methods: list[dict[str, Any]]
    vectors: Arrays
    texts: Annotated[Table, Rows("debias_text")]
    neurons: Annotated[Table, Rows("neuron_score")]


@dataclass(frozen=True)
class SparseCoder(Artifact):
    """A trained or imported sparse autoencoder. ``folder``: as ``runner.nodes.sem.sae`` reads and writes it."""

    folder: Folder
    models: Annotated[Table, Rows("sae_model")]


# --- what CLIP's heads write -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConceptDictionary(Artifact):
    """Concepts with their text embeddings by one encoder. ``index``: ``concepts.txt`` (one a line) and ``embeddings.npy``
    (float32 [M, d], as the encoder gives them, memory-mapped); ``info``: name, sha256 of the text, count, encoder identity."""

    info: dict[str, Any]
    index: Folder


@dataclass(frozen=True)
class HeadDirections(Artifact):
    """Singular vectors of the heads' value-output matrices.

    ``model``: ``{"name", "identity", "small", "layers", "heads", "width", "head_dim", "dim", "fold_ln", "rank", "ln_post",
    "centre", "image_mean_source", "sign", "minus"}``: ``layers`` and ``heads`` are the numbers that were read, ``minus`` the model
    whose weights were taken off before (None: none). ``arrays``: per layer ``"L<layer>.u"`` [H, D, r], ``".s"`` [H, r], ``".vh"``
    [H, r, D], ``".joint"`` [H, r, d] (right vectors in the joint space, unit rows, centred), ``".joint_neg"`` (the same of -v, which
    is not their negative), ``".joint_left"`` and ``".joint_neg_left"`` where asked; and ``"mu"`` [d], ``"proj"`` [D, d]. All float32.
    """

    model: dict[str, Any]
    heads: Annotated[Table, Rows("sith_head")]
    directions: Annotated[Table, Rows("sith_direction")]
    arrays: Arrays


@dataclass(frozen=True)
class HeadConcepts(Artifact):
    """Sparse concept codes of singular vectors. ``settings``: method, k, lambda and what else was asked for."""

    model: dict[str, Any]
    dictionary: dict[str, Any]
    settings: dict[str, Any]
    codes: Annotated[Table, Rows("sith_code")]
    concepts: Annotated[Table, Rows("sith_concept")]


@dataclass(frozen=True)
class HeadJudgements(Artifact):
    """What a judge said of each vector's concept list; ``model``: as in ``HeadConcepts``; ``task``: coherence, background,
    safety or concept_match."""

    model: dict[str, Any]
    task: str
    judge: str
    judgements: Annotated[Table, Rows("sith_judgement")]


@dataclass(frozen=True)
class EditedClip(Artifact):
    """A CLIP checkpoint with rescaled singular values. ``checkpoint``: a folder that stock open_clip and the provider
    ``open_clip`` (``written:``) load, with ``edit.json``; ``summary``: rule, directions changed, share of sum s^2 changed."""

    checkpoint: Folder
    summary: dict[str, Any]
    edits: Annotated[Table, Rows("sith_edit")]


# --- parts of objects --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartImages(Datasets):
    """One dataset whose pictures carry masks of parts, and attributes that each belong to a part.

    ``about``: ``{"dataset", "object", "parts": [names in order], "attributes": [names in order], "owners": {attribute: part or
    "global" or [parts]}, "excluded": {attribute: why it stays out of averages}, "swaps": [[part, part] that a flip exchanges],
    "part_source", "label_mode", "mask_resize": "none" or "nearest", "notes": [...]}``: with ``none`` a mask must have its picture's size; and ``"exact_masks": true`` where no pixel of a part tells of what lies outside it. ``images``: as in ``Datasets``; everything else goes by its row numbers.
    ``masks``: ``row`` int32, ``part`` int32 (index into ``parts``; -1: the whole object), ``height``, ``width`` int32, ``runs``
    binary (``runner.data.parts.rle``; NULL where there is a keypoint only), ``keypoint_x``, ``keypoint_y`` float32 (pixels, NULL
    without), ``visible`` bool. Parts that a picture does not show have no row, or one with ``visible`` false.
    ``labels``: ``value`` uint8 [n, A] (0 or 1) and ``valid`` uint8 [n, A] (0: not annotated or not certain; value then 0); where
    several pictures show one original (a drawing, a person), also ``group`` int32 [n]: its number; they are resampled together.
    """

    about: dict[str, Any]
    masks: Table
    labels: Arrays
    attributes: Annotated[Table, Rows("part_attribute")]


@dataclass(frozen=True)
class PartFeatures(Artifact):
    """Vectors of parts by layer, never token maps.

    ``model``: ``{"name", "family", "identity", "kind_of_layers", "depth", "layers": [numbers kept], "image_size", "patch_sizes",
    "prefix_tokens", "random_init", "small", "notes"}``; ``about`` as in ``PartImages``; ``settings``: pooling, norm, two-stage mode,
    rules. ``extractors``: ``{"name", "what", "leak_free"}`` in order (``single``, ``two_stage``, controls). ``sources``: the parts in
    order, then ``whole`` and ``background`` where asked. ``vectors``: ``<extractor>/L<layer>.npy``, float16 or float32
    [n, sources, D], NaN where the source is absent. ``present``: ``<extractor>`` uint8 [n, sources]; ``swap_donor`` int64 [n]: the row
    whose picture surrounds the part in the extractor ``swap``, -1 for none. ``rows``: ``sample_id``, ``split``, in the order of all arrays.
    ``labels`` as in ``PartImages``.
    """

    model: dict[str, Any]
    about: dict[str, Any]
    settings: dict[str, Any]
    extractors: list[dict[str, Any]]
    sources: list[str]
    vectors: Folder
    present: Arrays
    labels: Arrays
    rows: Table
    parts: Annotated[Table, Rows("leak_parts")]
    pictures: Annotated[Table, Rows("leak_picture")]


@dataclass(frozen=True)
class MaskedPictures(Artifact):
    """Pictures as they are and with one part hidden. ``about`` as in ``PartImages``. ``pictures``: a folder of PNGs.

    ``views``: ``sample_id``, ``masked_part`` (NULL: as it is), ``draw`` int32 (-1 for pictures as they are), ``uri`` (file in
    ``pictures``). ``truth``: ``sample_id``, ``attribute``, ``value`` (uint8) of valid labels. ``visible``: ``sample_id``, ``part``,
    ``masked_part``, ``draw``, ``group``: the picture was drawn for the concepts of ``part`` while ``masked_part`` is hidden (both are
    visible); ``group`` int32: number of its original (``PartImages.labels``), NULL where pictures stand alone.
    """

    about: dict[str, Any]
    settings: dict[str, Any]
    pictures: Folder
    views: Table
    truth: Table
    visible: Table


@dataclass(frozen=True)
class ConceptAnswers(Artifact):
    """What a concept predictor says of masked pictures. ``predictor``: ``{"name", "identity", "kind"}`` with kind ``classifier``,
    ``zero-shot`` or ``chat``; ``about``, ``settings``, ``visible`` and ``truth`` are those of the pictures."""

    about: dict[str, Any]
    settings: dict[str, Any]
    predictor: dict[str, Any]
    answers: Annotated[Table, Rows("leak_masked_answer")]
    visible: Table
    truth: Table
