"""Labels of CIRCLE: cleaning of replies, joined labels, order of the examples. Pure.

Source: "Large Multimodal Models as General In-Context Classifiers" (arXiv 2602.23229) and its published configuration; the
prefix tree is ours.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Literal

from agents.circle_prompts import shown_label

Compat = Literal["sane", "official"]
Order = list[tuple[int, tuple[int, ...]]]


def refinement_order(m: int) -> Order:
    """Orders of the examples of one round, by a prefix tree: (target slot, the other m - 1 slots) in the order of sending.

    The targets are split in two halves; prompts of a half begin with the examples of the other half; recurse. A server that
    keeps what equal beginnings cost reads m log2 m + m pairs of picture and labels for powers of two (80 for m = 16), where
    ``fixed_order`` needs m(m - 1)/2 + 2m - 1 (151), and m^2 (256) without such a cache. Raises ``ValueError`` for m < 1.
    """
    if m < 1:
        raise ValueError(f"a round needs at least one picture, not {m}")
    return list(_leaves(tuple(range(m)), ()))


def _leaves(targets: tuple[int, ...], examples: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    if len(targets) == 1:
        yield targets[0], examples
        return
    half = (len(targets) + 1) // 2
    first, second = targets[:half], targets[half:]
    yield from _leaves(first, examples + second)
    yield from _leaves(second, examples + first)


def fixed_order(m: int) -> Order:
    """The published order: for each target slot the others as they were drawn. Raises ``ValueError`` for m < 1."""
    if m < 1:
        raise ValueError(f"a round needs at least one picture, not {m}")
    return [(j, tuple(i for i in range(m) if i != j)) for j in range(m)]


def blocks_to_prefill(prompts: Iterable[Sequence[Hashable]]) -> int:
    """Blocks that a server with an unbounded prefix cache reads: the distinct non-empty beginnings of ``prompts``."""
    return len({tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)})


def clean_refinement(reply: str) -> str:
    """The label in a reply to a refinement: its last non-empty part between commas, stripped, without double quotes.

    A reply without comma is kept as it is; of commas alone the first part is left, which is blank.
    """
    if "," not in reply:
        return reply
    parts = reply.split(",")
    label = next((part for part in reversed(parts) if part.strip()), parts[0])
    return label.strip().replace('"', "")


def clean_answer(reply: str, compat: Compat = "sane") -> str:
    """The comma list in a reply to a query: parts without blank ones and repeats, stripped, without double quotes.

    ``sane`` tells repeats by the cleaned text, whatever its case; ``official`` by the text before stripping, as published runs
    did: of "lighthouse, lighthouse, lighthouse" the first two are left there, since " lighthouse" is another text.
    """
    parts = [part for part in reply.split(",") if part.strip()]
    if compat == "official":
        return ", ".join(part.strip().replace('"', "") for part in dict.fromkeys(parts))
    kept: dict[str, str] = {}
    for part in parts:
        item = part.replace('"', "").strip()
        kept.setdefault(item.casefold(), item)
    return ", ".join(item for item in kept.values() if item)


def joined_labels(history: Sequence[str]) -> str:
    """Current labels after a history y^0 ... y^t: all of them, stripped, with ", " between."""
    return ", ".join(label.strip() for label in history)


def final_label(history: Sequence[str]) -> str:
    """What queries are shown of a history y^0 ... y^T: the join of y^1 ... y^T, or of y^0 where T = 0."""
    return joined_labels(history[1:] or history)


def next_label(reply: str | None, cut: bool, history: Sequence[str]) -> tuple[str | None, str | None]:
    """The label that ``reply`` gives a picture with ``history``, and a flag.

    ``failed``: there is no reply (or a blank one where no label was before); ``kept_previous``: it holds no label; in both
    cases the label stays, None where there is none. ``cut``: the reply ran into its limit.
    """
    previous = history[-1] if history else None
    if reply is None:
        return previous, "failed"
    label = shown_label(clean_refinement(reply) if history else reply)
    if not label.strip(" ,"):
        return previous, "kept_previous" if history else "failed"
    return label, "cut" if cut else None


def label_row(round_: int, slot: int, reply: str | None, cut: bool, history: Sequence[str]) -> dict[str, Any]:
    """One row of ``circle_label`` (dataset, seed and episode left out): what the round left of the picture's label."""
    label, flag = next_label(reply, cut, history)
    return {
        "round": round_, "slot": slot, "reply": reply, "label": label,
        "joined": None if label is None else joined_labels([*history, label]),
        "changed": label is not None and (not history or label != history[-1]), "flag": flag,
    }  # fmt: skip
