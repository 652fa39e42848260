"""Image sources, under the name by which retrieval knows them (they live in ``runner.data.sources``)."""

from runner.data.sources import Corpus, Record, Source, SourceSpec, open_source, open_sources

__all__ = ["Corpus", "Record", "Source", "SourceSpec", "open_source", "open_sources"]
