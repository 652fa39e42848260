"""Pictures of one colour, datasets of them, and a loopback server that sees the colours and answers by rule."""

from __future__ import annotations

import base64
import contextlib
import io
import json

import numpy as np
from fault_server import serving
from PIL import Image

from results.tables import arrow_table
from runner.artifacts import Datasets, FewShotPool, Neighbours, OpenAnswers
from runner.models.chat.providers import OpenAI
from runner.models.registry import Services

COLOURS = {"red rose": (220, 20, 20), "green frog": (20, 200, 20), "blue whale": (20, 20, 220)}
NAMES = list(COLOURS)


def seen(part):
    """The class whose colour an ``image_url`` part has, nearest in RGB."""
    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    mean = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float).mean((0, 1))
    return min(NAMES, key=lambda name: np.abs(mean - COLOURS[name]).sum())


def contents(body):
    """Parts of all user messages in order: texts as they are, pictures as ('picture', class)."""
    parts = []
    for message in body["messages"]:
        if message["role"] == "user":
            content = message["content"]
            listed = [{"type": "text", "text": content}] if isinstance(content, str) else content
            parts += [p["text"] if p["type"] == "text" else ("picture", seen(p)) for p in listed]
    return parts


def pictures_of(body):
    """Classes of the pictures in a request, in order."""
    return [part[1] for part in contents(body) if isinstance(part, tuple)]


def slots(body):
    """The quoted answer and target of the first user message."""
    lines = contents(body)[0].splitlines()
    return tuple(
        json.loads(next(x for x in lines if x.startswith(f"{n}: ")).partition(": ")[2]) for n in ("Answer", "Target")
    )


def make_datasets(folder, *, names=("colours",), per_class=2, split="test", broken=(), nouns=None, classes=NAMES):
    """Pictures of one colour on disk, as ``datasets.load`` would give them; uris in ``broken`` hold no picture."""
    rows, corpus = [], []
    for place, dataset in enumerate(names):
        root = folder / dataset
        root.mkdir(parents=True, exist_ok=True)
        corpus.append({"folder": str(root), "name": f"{dataset}-{split}"})
        for index, name in enumerate(classes):
            for number in range(per_class):
                uri = f"{split}-{index}-{number}.png"
                colour = COLOURS.get(name, (number, 0, 0))
                Image.new("RGB", (40 + number, 30 + place), colour).save(root / uri)
                if uri in broken:
                    (root / uri).write_bytes(b"no picture")
                rows.append({
                    "dataset": dataset, "split": split, "sample_id": uri, "source_id": f"{dataset}-{split}", "uri": uri,
                    "target": name, "class_index": index, "thumbnail": None,
                })  # fmt: skip
    about = [
        {
            "dataset": dataset, "group": None, "classes": list(classes), "domain_noun": (nouns or {}).get(dataset),
            "template": "a photo of a {}.", "licence": "",
        }
        for dataset in names
    ]  # fmt: skip
    return Datasets(about, corpus, arrow_table("dataset_image", rows))


def make_pool(folder, *, shots=2):
    """A pool of training pictures of the same classes."""
    train = make_datasets(folder, per_class=shots, split="train")
    fields = ("dataset", "sample_id", "source_id", "uri", "target", "class_index")
    rows = [{"slot": i, **{f: r[f] for f in fields}} for i, r in enumerate(train.images.to_pylist())]
    return FewShotPool(train.datasets, train.corpus, arrow_table("few_shot_pool", rows), shots, 3)


def make_neighbours(queries, pool, order, *, shots=2, seed=3):
    """The same neighbours (sample ids in ``order``) for every query; rows are stored in reverse to show that ranks count."""
    by_id = {row["sample_id"]: row for row in pool.pool.to_pylist()}
    rows = [
        {
            "dataset": query["dataset"], "sample_id": query["sample_id"], "rank": rank, "pool_sample_id": name,
            "target": by_id[name]["target"], "class_index": by_id[name]["class_index"], "similarity": 1.0 - rank / 10,
        }
        for query in queries.images.to_pylist()
        for rank, name in reversed(list(enumerate(order)))
    ]  # fmt: skip
    return Neighbours({}, "similarity", arrow_table("pool_neighbour", rows), shots, seed)


def make_answers(pairs, *, method="zero_shot", first=True):
    """Answers from (target, prediction) pairs; a prediction of None is a failure."""
    rows = [
        {
            "method": method, "prompt_key": "base", "model": "m", "dataset": "colours", "sample_id": str(i), "seed": 0,
            "target": target, "reply": text, "prediction": text, "judged": text,
            "first_item": text.split(",")[0].strip() if text and first else None,
            "failure": None if text is not None else "lost",
        }
        for i, (target, text) in enumerate(pairs)
    ]  # fmt: skip
    return OpenAnswers([], method, {}, arrow_table("owc_prediction", rows))


@contextlib.contextmanager
def model(folder, answer, *, concurrency=16, **settings):
    """A client of a loopback server that answers with ``answer(body)``, and the server; replies are cached in ``folder``."""
    with serving(answer=answer, **settings) as server:
        config = OpenAI(
            model="scripted", base_url=server.base_url, timeout=5, deadline=20, max_retries=4, concurrency=concurrency
        )
        client = config.load(Services(cache=folder, device="cpu"))
        try:
            yield client, server
        finally:
            client.close()


def rows_of(table, *columns):
    """Rows of a table as tuples of some columns."""
    return [tuple(row[c] for c in columns) for row in table.to_pylist()]
