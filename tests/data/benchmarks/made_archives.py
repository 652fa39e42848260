"""Small archives of every benchmark, as its publisher lays them out: two questions or so each, with real pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image


def picture(shade: int = 0) -> bytes:
    """A PNG of 4 x 4 pixels."""
    held = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 10, 20)).save(held, "PNG")
    return held.getvalue()


def put(root: Path, name: str, content: Any) -> None:
    """A file below root: bytes, text, or JSON of anything else."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    path.write_bytes(data)


def _gqa(root: Path) -> None:
    plain = {"imageId": "n1", "question": "Is it red?", "answer": "yes", "types": {"structural": "verify"}}
    put(root, "testdev_balanced_questions.json", {"10": plain, "11": {**plain, "answer": "no"}})
    put(root, "images/n1.jpg", picture())


def _annotated(prefix: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        asked = [{"image_id": 42, "question": "What?", "question_id": 420001}]
        answers = [{"answer": "cat", "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)]
        noted = [{"question_id": 420001, "image_id": 42, "answer_type": "other", "answers": answers}]
        put(root, f"{prefix}OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
        put(root, f"{prefix}mscoco_val2014_annotations.json", {"annotations": noted})
        put(root, "val2014/COCO_val2014_000000000042.jpg", picture())

    return make


def _vizwiz(root: Path) -> None:
    answers = [{"answer": "soup", "answer_confidence": "yes"}] * 10
    put(
        root,
        "val.json",
        [{"image": "VizWiz_val_0.jpg", "question": "What?", "answers": answers, "answer_type": "other"}],
    )
    put(root, "val/VizWiz_val_0.jpg", picture())


def _textvqa(root: Path) -> None:
    record = {"question_id": 1, "image_id": "ab", "question": "What brand?", "answers": ["nokia"] * 10}
    put(root, "TextVQA_0.5.1_val.json", {"data": [record]})
    put(root, "train_images/ab.jpg", picture())


def _docvqa(root: Path) -> None:
    record = {
        "questionId": 7,
        "question": "Date?",
        "image": "documents/a_1.png",
        "docId": 3,
        "answers": ["1/8/93"],
        "question_types": ["form"],
    }
    put(root, "val_v1.0_withQT.json", {"data": [record]})
    put(root, "documents/a_1.png", picture())


def _infographicvqa(root: Path) -> None:
    record = {
        "questionId": 9,
        "question": "How many?",
        "image_local_name": "5.jpeg",
        "answers": ["4"],
        "answer_type": ["single span"],
    }
    put(root, "infographicsVQA_val_v1.0_withQT.json", {"data": [record]})
    put(root, "infographicsvqa_images/5.jpeg", picture())


def _chartqa(root: Path) -> None:
    for kind in ("human", "augmented"):
        put(root, f"test/test_{kind}.json", [{"imgname": "1.png", "query": "How much?", "label": "14"}])
    put(root, "test/png/1.png", picture())


def _ai2d(root: Path) -> None:
    asked = {"What eats grass?": {"answerTexts": ["cow", "lion"], "correctAnswer": 0, "questionId": "0.png-0"}}
    put(root, "ai2d/questions/0.png.json", {"imageName": "0.png", "questions": asked})
    put(root, "ai2d/questions/1.png.json", {"imageName": "1.png", "questions": asked})
    put(root, "ai2d_test_ids.csv", "0\n")
    put(root, "ai2d/images/0.png", picture())


def _scienceqa(root: Path) -> None:
    plain = {
        "question": "Which?",
        "choices": ["x", "y"],
        "answer": 1,
        "hint": "Look.",
        "image": "image.png",
        "subject": "natural science",
    }
    problems = {
        "3": {**plain, "split": "test"},
        "4": {**plain, "image": None, "split": "test"},
        "5": {**plain, "split": "train"},
    }
    put(root, "problems.json", problems)
    put(root, "images/test/3/image.png", picture())


def _mathvista(root: Path) -> None:
    free = {
        "question": "How long?",
        "image": "images/1.png",
        "answer": "1.2",
        "answer_type": "float",
        "precision": 1.0,
        "unit": "m",
    }
    choice = {
        "question": "Which?",
        "image": "images/1.png",
        "answer": "no",
        "choices": ["yes", "no"],
        "metadata": {"task": "geometry"},
    }
    put(root, "testmini.json", {"1": {**free, "choices": None, "metadata": {"task": "figure"}}, "2": choice})
    put(root, "images/1.png", picture())


def _mme(root: Path) -> None:
    lines = "Is it a cat? Please answer yes or no.\tYes\nIs it a dog? Please answer yes or no.\tNo\n"
    for task in ("existence", "code_reasoning"):
        put(root, f"{task}/a.txt", lines)
        put(root, f"{task}/a.jpg", picture())
    for name in ("b", "c"):
        put(root, f"color/questions_answers_YN/{name}.txt", lines)
        put(root, f"color/images/{name}.png", picture())


def _pope(root: Path) -> None:
    for kind in ("adversarial", "popular", "random"):
        record = {"question_id": 1, "image": "COCO_val2014_000000000042.jpg", "text": "Is there a cat?", "label": "no"}
        put(root, f"coco/coco_pope_{kind}.json", json.dumps(record) + "\n")
    put(root, "val2014/COCO_val2014_000000000042.jpg", picture())


def _ocrbench(root: Path) -> None:
    plain = {"question": "Text?", "answers": ["STOP"], "type": "Regular Text Recognition", "dataset_name": "IIIT5K"}
    put(
        root,
        "OCRBench.json",
        [
            {**plain, "image_path": "a/1.png", "id": 0},
            {**plain, "image_path": "a/1.png", "id": 1, "dataset_name": "HME100k"},
        ],
    )
    put(root, "OCRBench_Images/a/1.png", picture())


def _cv_bench(root: Path) -> None:
    plain = {
        "filename": "img/2D/count/1.png",
        "question": "How many?",
        "choices": ["0", "3"],
        "answer": "(B)",
        "source": "COCO",
    }
    lines = [{**plain, "idx": 0, "task": "Count"}, {**plain, "idx": 1, "task": "Relation"}]
    put(root, "test_2d.jsonl", "\n".join(json.dumps(line) for line in lines))
    put(root, "img/2D/count/1.png", picture())


MADE: dict[str, Callable[[Path], None]] = {
    "gqa": _gqa, "vqav2": _annotated("v2_"), "okvqa": _annotated(""), "vizwiz": _vizwiz, "textvqa": _textvqa, "docvqa": _docvqa,
    "infographicvqa": _infographicvqa, "chartqa": _chartqa, "ai2d": _ai2d, "scienceqa": _scienceqa, "mathvista": _mathvista,
    "mme_perception": _mme, "mme_cognition": _mme, "pope": _pope, "ocrbench": _ocrbench, "cv_bench_count": _cv_bench,
}  # fmt: skip
