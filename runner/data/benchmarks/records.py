"""A record of a benchmark, as its JSON or its Parquet has it, to an item: question, answers, options, category.

Names of columns are general knowledge of the published files; both spellings are taken where archive and hub differ.
Every function raises ``KeyError``, ``TypeError`` or ``ValueError`` where the record is not what it should be.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

Record = Mapping[str, Any]
Item = dict[str, Any]

_OPTIONS = re.compile(r"\bOptions?\s*:\s*(?=A\s*[:.)])")
_OPTION = re.compile(r"(?:^|[,\s])\s*([A-Z])\s*[:.)]\s*")
_IMAGE_MARK = re.compile(r"<\s*image\s*(\d*)\s*>")


def first(record: Record, *names: str) -> Any:
    """The first of these columns that is there and not None. Raises ``KeyError`` naming them."""
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise KeyError(f"no {' or '.join(names)}")


def text(value: Any) -> str:
    """A text or a number as text. Raises ``ValueError`` for anything else, and for nothing."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise ValueError(f"{str(value)[:80]!r} is no text")
    return str(value).strip()


def texts(value: Any) -> list[str]:
    """Answers: texts, or objects with ``answer``; a single text is one answer."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    answers = [text(entry["answer"] if isinstance(entry, Mapping) else entry) for entry in listed]
    if not answers:
        raise ValueError("no answer: a split whose answers are not public?")
    return answers


def places(value: Any) -> int | None:
    """Decimal places, 0 to 12. Raises ``ValueError`` for anything else that is not None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value not in range(13):
        raise ValueError(f"{str(value)[:80]!r} is no number of decimal places")
    return int(value)


def literal(value: Any) -> list[str]:
    """A list, or a Python list written as text (MMMU)."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"{value[:80]!r} is no list") from error
    return texts(value)


def letter(value: Any, choices: Sequence[str]) -> str:
    """The letter of an option that is given by letter (``B``, ``(B)``) or by index from 0."""
    given = str(value).strip().strip("().")
    if given.isdecimal() and len(given) < 3:
        return ascii_uppercase[: len(choices)][int(given)] if int(given) < len(choices) else _no(value)
    return given.upper() if len(given) == 1 and given.upper() in ascii_uppercase[: len(choices)] else _no(value)


def _no(value: Any) -> str:
    raise ValueError(f"{str(value)[:80]!r} is none of the options")


def _asked(
    record: Record, answers: list[str], category: Any = None, choices: list[str] | None = None, **extra: Any
) -> Item:
    question = _IMAGE_MARK.sub(
        lambda m: f"(picture {m[1]})" if m[1] else "", text(first(record, "question", "text", "query"))
    )
    held = {name: value for name, value in extra.items() if value is not None}
    return {
        "question": question.strip(), "answers": answers, "choices": choices, "category": None if category in (None, "") else str(category),
        "extra": held,
    }  # fmt: skip


def _chosen(record: Record, choices: list[str], answer: Any, category: Any = None, **extra: Any) -> Item:
    shown = [_IMAGE_MARK.sub(lambda m: f"(picture {m[1]})" if m[1] else "", choice) for choice in choices]
    return _asked(record, [letter(answer, choices)], category, shown, **extra)


def gqa(record: Record) -> Item:
    """Category: structural type of the question."""
    return _asked(record, texts(record["answer"]), (record.get("types") or {}).get("structural"))


def annotated(record: Record) -> Item:
    """VQAv2, OK-VQA, VizWiz, TextVQA: answers of ten annotators; category: type of the answer."""
    return _asked(record, texts(record["answers"]), record.get("answer_type"))


def document(record: Record) -> Item:
    """DocVQA, InfographicVQA: accepted spans; category: type of the question, where it has just one."""
    kinds = record.get("question_types") or record.get("answer_type") or []
    one = kinds if isinstance(kinds, str) else kinds[0] if len(kinds) == 1 else None
    return _asked(record, texts(record["answers"]), one)


def chart(record: Record) -> Item:
    """ChartQA; category: ``human`` or ``augmented``."""
    kind = str(record.get("type") or record.get("human_or_machine") or "").lower()
    category = "human" if kind.startswith(("human", "0")) else "augmented" if kind else None
    return _asked(record, texts(first(record, "label", "answer")), category)


def diagram(record: Record) -> Item:
    """AI2D: options and the index of the right one."""
    return _chosen(record, texts(first(record, "options", "answerTexts")), first(record, "answer", "correctAnswer"))


def science(record: Record) -> Item:
    """ScienceQA; category: subject; the hint is shown as context."""
    return _chosen(
        record, texts(record["choices"]), record["answer"], record.get("subject"), context=record.get("hint") or None
    )


def mmmu(record: Record) -> Item:
    """MMMU; category: what the id names between its first and last part (the subject)."""
    parts = str(first(record, "id")).split("_")
    subject = "_".join(parts[1:-1]) or None
    options = record.get("options")
    if not options or options == "[]":
        return _asked(record, literal(record["answer"]), subject)
    return _chosen(record, literal(options), record["answer"], subject)


def mathvista(record: Record) -> Item:
    """MathVista; category: its task. Answers of multiple choice are given as texts."""
    meta, choices = record.get("metadata") or {}, [*(record.get("choices") or [])]
    about: dict[str, Any] = {
        "answer_type": record.get("answer_type"),
        "precision": places(record.get("precision")),
        "context": None,
    }
    if record.get("unit"):
        about["context"] = f"the answer is in {record['unit']}"
    if choices:
        options = texts(choices)
        right = options.index(text(record["answer"]))
        return _chosen(record, options, right, meta.get("task"), **about)
    return _asked(record, texts(record["answer"]), meta.get("task"), **about)


def yes_no(record: Record) -> Item:
    """POPE, MME: answers yes or no."""
    said = text(first(record, "label", "answer")).lower().rstrip(".")
    if said not in ("yes", "no"):
        raise ValueError(f"{said[:80]!r} is neither yes nor no")
    return _asked(record, [said], record.get("category"))


def ocrbench(record: Record) -> Item:
    """OCRBench; category: type of the question; handwritten formulas are compared without spaces."""
    answers = texts(first(record, "answers", "answer"))
    formula = str(first(record, "dataset_name", "dataset")).upper() == "HME100K"
    return _asked(record, answers, record.get("question_type") or record.get("type"), spaces=False if formula else None)


def mmstar(record: Record) -> Item:
    """MMStar: options stand in the question's text (``Options: A: ..., B: ...``)."""
    question, choices = with_options(text(record["question"]))
    return _chosen({"question": question}, choices, record["answer"], record.get("category"))


def cv_bench(record: Record) -> Item:
    """CV-Bench: options, the right one as ``(C)``."""
    return _chosen(
        record, texts(record["choices"]), record["answer"], first(record, "source") if record.get("source") else None
    )


def vmcbench(record: Record) -> Item:
    """VMCBench: options in the columns A to D."""
    options = [text(record[name]) for name in "ABCD" if record.get(name) is not None]
    return _chosen(record, options, record["answer"], record.get("category"))


def with_options(question: str) -> tuple[str, list[str]]:
    """A question and the options that its text lists after ``Options:``. Raises ``ValueError`` where there are none in order."""
    start = _OPTIONS.search(question)
    if start is None:
        raise ValueError("the question lists no options")
    rest = question[start.end() :]
    marks: list[re.Match[str]] = []
    for mark in _OPTION.finditer(rest):
        if mark[1] == ascii_uppercase[len(marks) % 26]:
            marks.append(mark)
    ends = [mark.start() for mark in marks[1:]] + [len(rest)]
    choices = [rest[mark.end() : end].strip(" ,;\n") for mark, end in zip(marks, ends, strict=True)]
    return question[: start.start()].strip(), texts(choices)


READERS: dict[str, Callable[[Record], Item]] = {
    "gqa": gqa, "vqav2": annotated, "okvqa": annotated, "vizwiz": annotated, "textvqa": annotated, "docvqa": document,
    "infographicvqa": document, "chartqa": chart, "ai2d": diagram, "scienceqa": science, "mmmu": mmmu, "mathvista": mathvista,
    "mme_perception": yes_no, "mme_cognition": yes_no, "pope": yes_no, "ocrbench": ocrbench, "mmstar": mmstar, "cv_bench_count": cv_bench,
    "vmcbench": vmcbench,
}  # fmt: skip
"""Function by benchmark."""

IDS = ("question_id", "questionId", "id", "pid", "index", "idx")
GROUPS = ("image_id", "imageId", "docId", "image_local_name", "imgname", "image_path", "imageName")
"""Columns that name an item, and the picture that several items share."""
