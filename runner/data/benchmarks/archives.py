"""Benchmarks in the files of their own archives. Layouts are general knowledge of the published files, not seen again for this module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner.data.benchmarks.files import Skipped, is_file, listed, mapped, one_file, read_json, read_records
from runner.data.benchmarks.found import Raw
from runner.data.benchmarks.known import MME_COGNITION, MME_PERCEPTION
from runner.data.benchmarks.records import IDS
from runner.errors import DataError

Raws = Iterator[Raw]


def _named(root: Path, name: str, *folders: str) -> str:
    """A picture's path below ``root``: in the first of the folders where it is, else in the first one named."""
    places = [f"{folder}/{name}" if folder else name for folder in folders]
    return next((place for place in places if is_file(root / place)), places[0])


def _id(record: dict[str, Any], number: int) -> str:
    """A record's own id, else its number in the file."""
    return next((str(record[name]) for name in IDS if record.get(name) is not None), str(number))


def gqa(root: Path, split: str, skipped: Skipped) -> Raws:
    """``<split>_questions.json`` (object by id), ``images/<imageId>.jpg``."""
    path = one_file(root, f"{split}_questions.json", f"questions/{split}_questions.json")
    for key, record in mapped(read_json(path), path).items():
        image = str(record.get("imageId"))
        yield Raw(key, record, [_named(root, f"{image}.jpg", "images", "allImages/images")], image)


def _coco(root: Path, split: str, number: Any) -> str:
    name = f"COCO_{split}_{int(number):012d}.jpg"
    return _named(root, name, split, f"images/{split}", "images", "")


def _open_ended(root: Path, split: str, questions: str, answers: str) -> Raws:
    """VQA's pair of files: questions, and annotations by ``question_id``."""
    asked, noted = one_file(root, questions), one_file(root, answers)
    held = {str(entry.get("question_id")): entry for entry in listed(read_json(noted), noted, "annotations")}
    for record in listed(read_json(asked), asked, "questions"):
        number = str(record.get("question_id"))
        image = record.get("image_id")
        uris = [_coco(root, split, image)] if str(image).isdecimal() and len(str(image)) < 13 else []
        yield Raw(number, {**held.get(number, {}), **record}, uris, str(image))


def vqav2(root: Path, split: str, skipped: Skipped) -> Raws:
    """``v2_OpenEnded_mscoco_<split>_questions.json``, ``v2_mscoco_<split>_annotations.json``, ``<split>/COCO_<split>_....jpg``."""
    yield from _open_ended(
        root, split, f"v2_OpenEnded_mscoco_{split}_questions.json", f"v2_mscoco_{split}_annotations.json"
    )


def okvqa(root: Path, split: str, skipped: Skipped) -> Raws:
    """As VQAv2, without ``v2_``."""
    yield from _open_ended(root, split, f"OpenEnded_mscoco_{split}_questions.json", f"mscoco_{split}_annotations.json")


def vizwiz(root: Path, split: str, skipped: Skipped) -> Raws:
    """``<split>.json`` (list), pictures in ``<split>/``."""
    path = one_file(root, f"{split}.json", f"Annotations/{split}.json", f"annotations/{split}.json")
    for record in listed(read_json(path), path):
        name = str(record.get("image"))
        yield Raw(name, record, [_named(root, name, split, f"images/{split}", "images", "")])


def textvqa(root: Path, split: str, skipped: Skipped) -> Raws:
    """``TextVQA_0.5.1_<split>.json``, ``train_images/<image_id>.jpg`` (also of val)."""
    path = one_file(root, f"TextVQA_*_{split}.json")
    for number, record in enumerate(listed(read_json(path), path, "data")):
        image = str(record.get("image_id"))
        uri = _named(root, f"{image}.jpg", "train_images", "images/train_images", "images")
        yield Raw(_id(record, number), record, [uri], image)


def docvqa(root: Path, split: str, skipped: Skipped) -> Raws:
    """``<split>_v1.0*.json``, pictures by their ``image`` path."""
    path = one_file(root, f"{split}_v1.0_withQT.json", f"{split}_v1.0.json", f"{split}/{split}_v1.0.json")
    for number, record in enumerate(listed(read_json(path), path, "data")):
        name = str(record.get("image"))
        yield Raw(_id(record, number), record, [_named(root, name, "", split, "images")], name)


def infographicvqa(root: Path, split: str, skipped: Skipped) -> Raws:
    """``infographicsVQA_<split>_v1.0*.json``, pictures by ``image_local_name``."""
    path = one_file(root, f"infographicsVQA_{split}_v1.0*.json", f"infographicVQA_{split}_v1.0*.json")
    for number, record in enumerate(listed(read_json(path), path, "data")):
        name = str(record.get("image_local_name"))
        uri = _named(root, name, "infographicsvqa_images", "infographicVQA_images", "images", "")
        yield Raw(_id(record, number), record, [uri], name)


def chartqa(root: Path, split: str, skipped: Skipped) -> Raws:
    """``<split>/<split>_human.json``, ``<split>/<split>_augmented.json``, ``<split>/png/``."""
    base = root if (root / split).is_dir() else root / "ChartQA Dataset"
    for kind in ("human", "augmented"):
        path = one_file(base, f"{split}/{split}_{kind}.json")
        for number, record in enumerate(listed(read_json(path), path)):
            name = str(record.get("imgname"))
            uri = (base / split / "png" / name).relative_to(root).as_posix()
            yield Raw(f"{kind}-{number}", {**record, "type": kind}, [uri], name)


def ai2d(root: Path, split: str, skipped: Skipped) -> Raws:
    """``questions/<picture>.json``, ``images/``; the test pictures in ``ai2d_test_ids.csv``, ``split: all`` takes every one."""
    base = root if (root / "questions").is_dir() else root / "ai2d"
    folder = base / "questions"
    if not folder.is_dir():
        raise DataError(f"{root} has no folder questions", hint="Unpack the archive of AI2D there.")
    wanted = (
        None if split == "all" else {*one_file(base, "ai2d_test_ids.csv", "../ai2d_test_ids.csv").read_text().split()}
    )
    for path in sorted(folder.glob("*.json")):
        name = path.name.removesuffix(".json")
        if wanted is not None and name.partition(".")[0] not in wanted:
            continue
        uri = (base / "images" / name).relative_to(root).as_posix()
        for asked, record in mapped((mapped({"": read_json(path)}, path)[""]).get("questions", {}), path).items():
            yield Raw(str(record.get("questionId", asked)), {"question": asked, **record}, [uri], name)


def scienceqa(root: Path, split: str, skipped: Skipped) -> Raws:
    """``problems.json`` (object by id), ``images/<split>/<id>/image.png``."""
    path = one_file(root, "problems.json", "data/scienceqa/problems.json")
    for key, record in mapped(read_json(path), path).items():
        if record.get("split") == split:
            name = record.get("image")
            uris = [_named(root, f"{split}/{key}/{name}", "images", "", "data/scienceqa/images")] if name else []
            yield Raw(key, record, uris)


def mathvista(root: Path, split: str, skipped: Skipped) -> Raws:
    """``<split>.json`` (object by id), pictures by their ``image`` path."""
    path = one_file(root, f"{split}.json", f"data/{split}.json")
    for key, record in mapped(read_json(path), path).items():
        name = str(record.get("image"))
        yield Raw(key, record, [_named(root, name, "", "data")], name)


def _mme(root: Path, tasks: tuple[str, ...], skipped: Skipped) -> Raws:
    folders = {path.name.lower(): path for path in root.iterdir() if path.is_dir()} if root.is_dir() else {}
    held = [folders[task.lower()] for task in tasks if task.lower() in folders]
    if not held:
        raise DataError(f"{root} has none of MME's folders {', '.join(tasks)}")
    for folder in held:
        texts = sorted(folder.glob("questions_answers_YN/*.txt")) or sorted(folder.glob("*.txt"))
        pictures = folder / "images" if (folder / "images").is_dir() else folder
        for path in texts:
            endings = (f"{path.stem}{ending}" for ending in (".jpg", ".png", ".jpeg"))
            name = next((name for name in endings if (pictures / name).is_file()), f"{path.stem}.jpg")
            uri, pair = (pictures / name).relative_to(root).as_posix(), f"{folder.name}/{path.stem}"
            for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines()):
                question, tab, answer = line.rpartition("\t")
                if tab:
                    yield Raw(
                        f"{pair}/{number}",
                        {"question": question, "answer": answer, "category": folder.name},
                        [uri],
                        pair,
                    )
                elif line.strip():
                    skipped.add("no question and answer with a tab between", f"{pair}/{number}")


def mme_perception(root: Path, split: str, skipped: Skipped) -> Raws:
    """Folders by task: pictures, and beside them or in ``questions_answers_YN`` a text file each: question, tab, Yes or No."""
    yield from _mme(root, MME_PERCEPTION, skipped)


def mme_cognition(root: Path, split: str, skipped: Skipped) -> Raws:
    """As ``mme_perception``."""
    yield from _mme(root, MME_COGNITION, skipped)


def pope(root: Path, split: str, skipped: Skipped) -> Raws:
    """``coco_pope_{adversarial,popular,random}.json`` (JSON lines), COCO's val2014."""
    for kind in ("adversarial", "popular", "random"):
        path = one_file(root, f"coco_pope_{kind}.json", f"*/coco_pope_{kind}.json")
        for number, record in read_records(path, skipped):
            name = str(record.get("image"))
            uri = _named(root, name, "val2014", "images", "coco/val2014", "")
            yield Raw(f"{kind}-{record.get('question_id', number)}", {**record, "category": kind}, [uri], name)


def ocrbench(root: Path, split: str, skipped: Skipped) -> Raws:
    """``OCRBench.json`` (list), ``OCRBench_Images/``."""
    path = one_file(root, "OCRBench.json", "*/OCRBench.json")
    for number, record in enumerate(listed(read_json(path), path)):
        name = str(record.get("image_path"))
        yield Raw(str(record.get("id", number)), record, [_named(root, name, "OCRBench_Images", "images", "")])


def cv_bench_count(root: Path, split: str, skipped: Skipped) -> Raws:
    """``test_2d.jsonl`` with ``filename``; the task Count alone."""
    path = one_file(root, "test_2d.jsonl", f"{split}_2d.jsonl", f"{split}.jsonl")
    for number, record in read_records(path, skipped):
        if str(record.get("task")).lower() == "count":
            yield Raw(str(record.get("idx", number)), record, [_named(root, str(record.get("filename")), "", "img")])


ARCHIVES: dict[str, Callable[[Path, str, Skipped], Raws]] = {
    "gqa": gqa, "vqav2": vqav2, "okvqa": okvqa, "vizwiz": vizwiz, "textvqa": textvqa, "docvqa": docvqa, "infographicvqa": infographicvqa,
    "chartqa": chartqa, "ai2d": ai2d, "scienceqa": scienceqa, "mathvista": mathvista, "mme_perception": mme_perception,
    "mme_cognition": mme_cognition, "pope": pope, "ocrbench": ocrbench, "cv_bench_count": cv_bench_count,
}  # fmt: skip
"""Reader by benchmark; MMMU, MMStar and VMCBench are published as Parquet alone."""

SPLITS = {
    "gqa": "testdev_balanced", "vqav2": "val2014", "okvqa": "val2014", "vizwiz": "val", "textvqa": "val", "docvqa": "val",
    "infographicvqa": "val", "mmmu": "validation", "mathvista": "testmini", "mmstar": "val", "vmcbench": "dev",
}  # fmt: skip
"""Split read where the spec names none; others: test."""
