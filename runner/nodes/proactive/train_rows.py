"""Published training rows: single turns with their picture, as samples of which one frame is known.

Source: dataset card of ProactiveBench (arXiv 2603.19466): columns ``prompt`` (messages), ``images``, ``ground_truth``, ``proactive_actions``,
``options``. A row does not say its scenario, nor which frames would follow; both are made up for here, as the functions say [inferred].
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from runner.data.benchmarks.files import Skipped
from runner.data.images import decode
from runner.data.sources.base import MAX_RECORD_BYTES
from runner.errors import DataError
from runner.nodes.proactive.matching import normal_form
from runner.nodes.proactive.records import Record, actions_named, frame_uri, is_abstention, parse_record

TEXTS = ("prompt", "ground_truth", "proactive_actions", "options")
_BATCH_ROWS = 64
_LETTERED = re.compile(r"^\s*[A-Z]\.\s+(.+?)\s*$", re.MULTILINE)
_DRAWING = re.compile(r"\b(?:details?|improve|drawing|sketch|strokes?|quickdraw|draw)\b", re.IGNORECASE)
_OPPOSED = ({"left", "right"}, {"up", "down"})
_WITHDRAWN = "Move the camera to the left."
"""A request that the environment never shows here: a record must name one."""


class Turn(NamedTuple):
    """What a row says. ``shown``: options in the order of their letters; ``asks``: those of them that help; ``question``: the prompt before
    the sentence that announces the options."""

    question: str
    shown: tuple[str, ...]
    asks: tuple[str, ...]
    answer: str

    @property
    def scenario(self) -> str:
        """QuickDraw where a request is about the drawing, else COCO: the two that are trained on. A turn without any request is of COCO,
        whose requests vanish once everything is seen; those of QuickDraw stay."""
        if any(_moves(option) for option in self.shown):
            return "COCO"
        asked = any(_DRAWING.search(o) for o in self.shown if o != self.answer and not is_abstention(o))
        return "QD" if self.asks or asked else "COCO"


class Placed(NamedTuple):
    """A turn, the row that it is, and the name of its sample."""

    file: Path
    row: int
    name: str
    turn: Turn


class TrainRow(NamedTuple):
    """A row as a sample, and the file of its picture below the folder of pictures."""

    record: Record
    uri: str


def parquet_files(path: Path) -> list[Path]:
    """The files of the training split: a file, those of a pattern, or all of a folder whose name begins with ``train``."""
    if path.is_file():
        return [path]
    found = path.rglob("train*.parquet") if path.is_dir() else path.parent.glob(path.name)
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise DataError(f"{path}: no Parquet file of training rows", hint="Name `data/` of the published release.")
    if len({file.stem for file in files}) < len(files):
        raise DataError(f"{path}: two Parquet files have one name: samples are called after file and row")
    return files


def read_turns(files: Sequence[Path], skipped: Skipped) -> Iterator[Placed]:
    """What the rows say, without their pictures; what cannot be a turn goes to ``skipped``. Raises ``DataError`` for other files."""
    for file in files:
        for number, row in _rows(file, TEXTS):
            name = f"{file.stem}-{number}"
            try:
                yield Placed(file, number, name, turn_of(row))
            except DataError as error:
                skipped.add(_reason(error), name)


def with_pictures(turns: Iterable[Placed], folder: Path, skipped: Skipped) -> Iterator[TrainRow]:
    """Turns as samples, their pictures written below ``folder`` by the hash of their bytes; few rows are held at a time."""
    wanted: dict[Path, dict[int, Placed]] = {}
    for placed in turns:
        wanted.setdefault(placed.file, {})[placed.row] = placed
    for file, by_row in wanted.items():
        for number, row in _rows(file, ("images",), {*by_row}):
            placed = by_row[number]
            try:
                yield _train_row(placed, _picture(row["images"]), folder)
            except DataError as error:
                skipped.add(_reason(error), placed.name)


def _reason(error: DataError) -> str:
    return " ".join(error.message.split())[:160]


def _rows(file: Path, columns: Sequence[str], wanted: set[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their numbers in the file; only the ``wanted`` ones become Python values."""
    try:
        with pq.ParquetFile(file) as opened:
            missing = [name for name in columns if name not in opened.schema_arrow.names]
            if missing:
                held = ", ".join(opened.schema_arrow.names)[:300]
                raise DataError(f"{file} has no column {', '.join(missing)}; it has {held}")
            first = 0
            for batch in opened.iter_batches(_BATCH_ROWS, columns=list(columns)):
                chosen = [i for i in range(batch.num_rows) if wanted is None or first + i in wanted]
                yield from ((first + i, batch.slice(i, 1).to_pylist()[0]) for i in chosen)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {str(error)[:200]}") from error


def _train_row(placed: Placed, data: bytes, folder: Path) -> TrainRow:
    record = record_of_turn(placed.turn, placed.name, digest_name(data), decode(data).size)
    uri = frame_uri(record, 0)
    path = folder / uri
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return TrainRow(record, uri)


def digest_name(data: bytes) -> str:
    """Where a picture is written: below a folder of the first two digits of its SHA-256."""
    digest = hashlib.sha256(data).hexdigest()
    return f"{digest[:2]}/{digest[:32]}"


def _picture(images: Any) -> bytes:
    listed = images if isinstance(images, list) else [images]
    if len(listed) != 1:
        raise DataError(f"expected one picture, found {len(listed)}")
    data = listed[0].get("bytes") if isinstance(listed[0], Mapping) else listed[0]
    if not isinstance(data, bytes) or not 0 < len(data) <= MAX_RECORD_BYTES:
        raise DataError("expected the bytes of a picture in `images`")
    return data


# --- what a row says -------------------------------------------------------------------------------------------------


def turn_of(row: Mapping[str, Any]) -> Turn:
    """Question, shown options, those that help, and the right category. Raises ``DataError`` where they do not fit together.

    Options are those of the column where it holds the right one (and one that helps, if any does), else the lettered lines of the
    prompt; what would help but is not shown does not count.
    """
    text = _prompt_text(row["prompt"])
    answer, asks = row["ground_truth"], row["proactive_actions"] or []
    listed = row["options"] or []
    if not isinstance(answer, str) or not _are_texts(asks) or not _are_texts(listed):
        raise DataError("expected texts in `ground_truth`, `proactive_actions` and `options`")
    for shown in (listed, _LETTERED.findall(text)):
        by_form = {normal_form(option): option for option in shown}
        helping = [by_form[form] for form in map(normal_form, asks) if form in by_form]
        if normal_form(answer) in by_form and len(by_form) == len(shown) and bool(helping) == bool(asks):
            return Turn(question_of(text, shown), tuple(shown), tuple(helping), by_form[normal_form(answer)])
    raise DataError("the right category and a request that helps are not among the options")


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _prompt_text(messages: Any) -> str:
    """The texts of the user's messages, one below the other."""
    found: list[str] = []
    for message in messages if isinstance(messages, list) else [{"role": "user", "content": messages}]:
        content = message.get("content") if isinstance(message, Mapping) and message.get("role") == "user" else None
        parts: list[Any] = content if isinstance(content, list) else [{"text": content}]
        found += [part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
    if not any(text.strip() for text in found):
        raise DataError("expected a user's message with text in `prompt`")
    return "\n".join(found)


def question_of(text: str, shown: Sequence[str]) -> str:
    """The question alone, on one line: up to its last question mark before the options, so that announcement and letters go.

    Without a question mark: everything before the first option's line.
    """
    forms = {normal_form(option) for option in shown}
    kept = []
    for line in text.splitlines():
        if normal_form(line) in forms:
            break
        kept.append(line)
    flat = re.sub(r"<\s*image\s*>", " ", " ".join(kept))
    flat = " ".join(flat.split())
    asked = flat[: flat.rfind("?") + 1] or flat
    if not asked:
        raise DataError("the prompt has no question before its options")
    return asked


def _moves(option: str) -> bool:
    return option.casefold().startswith(("move", "zoom")) and bool(actions_named("COCO", option))


# --- as a sample -----------------------------------------------------------------------------------------------------


def record_of_turn(turn: Turn, name: str, picture: str, size: tuple[int, int]) -> Record:
    """A sample whose first view is the row's picture and whose options are shown and judged as the row says.

    One more view is said to follow where a request helps (it is never shown: such samples end after a turn), none where nothing helps.
    Raises ``DataError`` where the scenario's rules cannot say what the row does.
    """
    helps = bool(turn.asks)
    data: dict[str, Any] = {
        "id": name, "prompt": turn.question, "answer": turn.answer, "first_image": 0, "reference_image": 0,
        "num_images": 1,
    }  # fmt: skip
    asking = _asking(turn)
    data["options"] = [o for o in turn.shown if is_abstention(o) or o in asking]
    data["categories"] = [o for o in turn.shown if o not in data["options"]]
    if [*data["options"], *data["categories"]] != [*turn.shown]:
        raise DataError("a category stands before a request or an abstention")
    if turn.scenario == "COCO":
        data |= _framing(turn, asking, size) | {"image_template": f"{picture}.png"}
        if not asking:
            data["options"].append(_WITHDRAWN)
    else:
        data |= {"num_images": 1 + helps, "reference_image": int(helps), "image_template": picture + "_{image}.png"}
        if helps and {*turn.asks} != {*asking}:
            raise DataError("some requests help and some do not")
    return parse_record(turn.scenario, data)


def _asking(turn: Turn) -> list[str]:
    """Requests among the options: those that help, and others whose words are a request of the scenario; never the right category."""
    return [
        option for option in turn.shown
        if option in turn.asks or (option != turn.answer and not is_abstention(option) and _is_request(turn, option))
    ]  # fmt: skip


def _is_request(turn: Turn, option: str) -> bool:
    return _moves(option) if turn.scenario == "COCO" else _DRAWING.search(option) is not None


def _framing(turn: Turn, asking: Sequence[str], size: tuple[int, int]) -> dict[str, Any]:
    """Direction and crop such that the first view is the whole picture and the axes that help are not exhausted."""
    if {*asking} != {*turn.asks}:
        raise DataError("a request is shown that does not help")
    named = [action for option in asking for action in actions_named("COCO", option)]
    if any(pair <= {*named} for pair in _OPPOSED) or ("farther" in named and len(named) > 1):
        raise DataError(f"no crop grows towards {' and '.join(named)} at once")
    sides = sorted(named, key=("up", "down", "left", "right", "farther").index)
    width, height = size
    return {
        "direction": "zoom" if sides == ["farther"] else "_".join(sides) or "left",
        "granularity": 1 + bool(asking), "horizontal_step": 0, "vertical_step": 0,
        "crop": {"top": 0, "left": 0, "height": height, "width": width},
    }  # fmt: skip
