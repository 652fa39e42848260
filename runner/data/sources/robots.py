"""What a server says about use by machines: the header ``X-Robots-Tag``."""

from __future__ import annotations

from collections.abc import Iterable

AGENT = "vlm-runner"
OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""Directives that forbid keeping a picture; ``none`` is short for ``noindex, nofollow``."""

_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def opted_out(headers: Iterable[str], agent: str = AGENT) -> str | None:
    """The first directive among the values of ``X-Robots-Tag`` that forbids the use to ``agent``, else None.

    ``name: directives`` speaks to one agent alone, until the next name in the same header.
    """
    for header in headers:
        spoken_to = True
        for piece in header.split(","):
            name, colon, rest = (text.strip().lower() for text in piece.partition(":"))
            if colon and name not in _WITH_VALUE:
                spoken_to = name in ("*", agent)
                name = rest
            if spoken_to and name in OPT_OUTS:
                return name
    return None
