"""Steps of retrieval: ``retrieval.index``, ``retrieval.import_clip_retrieval``, ``retrieval.search``,
``retrieval.folder_tree``. Light: imported to validate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from runner.artifacts import Captions, ImageIndex, RetrievedImages
from runner.context import StepContext, item_key
from runner.data.sources import Corpus, Source, is_here, open_sources
from runner.errors import RunnerError
from runner.models.base import ImageTextEncoder
from runner.references import InputPath
from runner.steps import Cost, Folder, step

BatchSize = Annotated[int, Field(ge=1, le=4096, description="pictures encoded together")]
FaissKind = Annotated[
    Literal["auto", "flat", "ivf_sq", "ivf_pq"],
    Field(description="search structure; auto: by size, exact up to a million rows"),
]
Probes = Annotated[int, Field(ge=1, description="lists of an IVF looked through by a search; default: by size")]


def _index_cost(params: Mapping[str, Any]) -> Cost:
    """Pictures to embed, where the sources can count them without being read; None where they cannot be opened yet.

    An estimate fetches nothing: a packaged set that is not here is not counted.
    """
    corpus = params.get("corpus")
    if corpus is None:
        return Cost()
    unknown = Cost(images=None, bytes=None)
    try:
        if not all(is_here(spec) for spec in (corpus if isinstance(corpus, list) else [corpus])):
            return unknown
        counts = [shard.records for source in open_sources(corpus) for shard in source.shards()]
    except (RunnerError, OSError):
        return unknown
    return Cost(images=None if None in counts else sum(n or 0 for n in counts), bytes=None)


@step("retrieval.index", version="1", estimate=_index_cost)
def index(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    corpus: Corpus,
    batch_size: BatchSize = 64,
    faiss: FaissKind = "auto",
    nprobe: Probes | None = None,
) -> ImageIndex:
    """Embed a corpus once, for many searches; goes on where it was interrupted and embeds only what is new."""
    from retrieval.index import build
    from retrieval.tables import sources_table

    sources = open_sources(corpus)
    folder = ctx.folder("index")
    built = build(
        _shared(ctx, encoder, sources), sources, encoder, ctx,
        batch_size=batch_size, faiss=faiss, nprobe=nprobe, export_to=folder,
    )  # fmt: skip
    return ImageIndex(index=folder, sources=sources_table(built.sources))


def _shared(ctx: StepContext, encoder: ImageTextEncoder, sources: list[Source]) -> Any:
    """The workspace's folder for this encoder and these sources, wherever they grow to."""
    return ctx.shared / "indexes" / item_key(encoder.identity, sorted(item_key(s.spec) for s in sources))[:24]


@step("retrieval.import_clip_retrieval", version="1")
def import_clip_retrieval(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    folder: InputPath,
    root: Annotated[InputPath, Field(description="folder that holds the pictures which the metadata name")],
    structure: Annotated[
        InputPath | None, Field(description="autofaiss output over the same rows: a folder with knn.index, or the file")
    ] = None,
    skip_damaged: Annotated[bool, Field(description="leave damaged partitions out instead of stopping")] = False,
    faiss: FaissKind = "auto",
    nprobe: Probes | None = None,
) -> ImageIndex:
    """Take over the image embeddings of a clip-retrieval folder; ``encoder`` is the CLIP model that made them."""
    from pathlib import Path

    from retrieval.adopt import import_folder
    from retrieval.tables import sources_table

    target = ctx.folder("index")
    made = import_folder(
        ctx.shared / "indexes" / item_key("clip-retrieval", encoder.identity, folder, root)[:24],
        Path(folder), root, encoder, ctx, structure=None if structure is None else Path(structure),
        skip_damaged=skip_damaged, faiss=faiss, nprobe=nprobe, export_to=target,
    )  # fmt: skip
    return ImageIndex(index=target, sources=sources_table(made.sources))


@step("retrieval.search", version="2", estimate=_index_cost)
def search(
    ctx: StepContext,
    *,
    encoder: ImageTextEncoder,
    corpus: ImageIndex | Corpus,
    queries: Captions,
    k: Annotated[int, Field(ge=1, description="pictures for each caption")] = 100,
    overfetch: Annotated[int, Field(ge=1, le=100, description="candidates for each picture wanted")] = 5,
    dedup_cosine: Annotated[float, Field(gt=0, description="near duplicates from this cosine; above 1: off")] = 0.94,
    min_side: Annotated[int, Field(ge=1, description="pixels of the smaller side")] = 64,
    max_pixels: Annotated[int, Field(ge=1, description="width x height")] = 50_000_000,
    margin: Annotated[float, Field(ge=0, description="lead that one value needs over another")] = 0.01,
    similarity: Literal["image", "caption", "mean"] = "image",
    relevance: Annotated[
        bool, Field(description="a picture must suit its caption better than other values' and other classes' captions")
    ] = True,
    others: Annotated[
        list[str], Field(description="what else the corpus shows: pictures nearer to one of these are left out")
    ] = [],  # noqa: B006
    paper_mode: Annotated[bool, Field(description="the k nearest as they are, no filter")] = False,
    batch_size: BatchSize = 64,
) -> RetrievedImages:
    """Fetch the pictures nearest to each caption and keep the k best that pass the quality rules."""
    from retrieval.index import build, open_index
    from retrieval.quality import Rules
    from retrieval.search import retrieve

    if isinstance(corpus, ImageIndex):
        opened = open_index(corpus.index)
    else:
        sources = open_sources(corpus)
        opened = build(_shared(ctx, encoder, sources), sources, encoder, ctx, batch_size=batch_size)
    rules = Rules(k, min_side, max_pixels, dedup_cosine, margin)
    return retrieve(
        ctx, opened, encoder, queries, None if paper_mode else rules,
        k=k, overfetch=overfetch, similarity=similarity, relevance=relevance, others=others,
    )  # fmt: skip


@step("retrieval.folder_tree", version="1")
def folder_tree(
    ctx: StepContext,
    *,
    path: Annotated[Folder | InputPath, Field(description="the folder, or a step's folder such as $birds.tree")],
    task: Annotated[str, Field(description="what the classifier is meant to do")],
    classes: Annotated[list[str], Field(description="all classes of the task; default: the folders")] | None = None,
    min_side: Annotated[int, Field(ge=1, description="pixels of the smaller side")] = 1,
    max_pixels: Annotated[int, Field(ge=1, description="width x height")] = 50_000_000,
    paper_mode: Annotated[bool, Field(description="files as they are, duplicates included")] = False,
) -> RetrievedImages:
    """Take pictures that somebody sorted into TARGET/ATTRIBUTE/VALUE folders; no retrieval."""
    from retrieval.tree import read_tree
    from runner.data.images import ImageLimits

    limits = ImageLimits(max_pixels=max_pixels, min_side=min_side)
    return read_tree(ctx, str(path), task, classes, limits, keep_duplicates=paper_mode)
