"""Real photographs as a dataset: the packaged CIFAR-10 training sample, split by hand, and an encoder of their colours."""

import importlib.util
from pathlib import Path

from results.tables import arrow_table
from runner.artifacts import Datasets
from runner.data.sources import open_source

_CODE = Path(__file__).parents[2] / "retrieval" / "tiny_encoder.py"
_SPEC = importlib.util.spec_from_file_location("tiny_encoder_of_retrieval", _CODE)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
ColourEncoder = _MODULE.ColourEncoder

KINDS = ("ship", "frog", "truck")
SPLITS = (("train", 12), ("val", 10), ("test", 15))


def cifar(name="cifar", *, group="small", kinds=KINDS, splits=SPLITS, skip=0):
    """Photographs of three kinds; ``skip`` leaves out that many first ones of each kind."""
    spec = {"packaged": "cifar10-train-sample"}
    source = open_source(spec)
    labels = source.labels()
    rows = []
    for index, kind in enumerate(kinds):
        own = iter([uri for uri in sorted(labels) if labels[uri] == kind][skip:])
        for split, count in splits:
            for uri in (next(own) for _ in range(count)):
                rows.append(row(name, split, f"{kind}/{uri}", source.source_id, uri, kind, index))
    rows.sort(key=lambda r: r["split"])
    return Datasets([about(name, list(kinds), group)], [source.spec], arrow_table("dataset_image", rows))


def about(name, classes, group="small"):
    return {
        "dataset": name, "group": group, "classes": classes, "domain_noun": None, "template": "a photo of a {}.",
        "licence": "research",
    }  # fmt: skip


def row(dataset, split, sample, source, uri, target, index):
    return {
        "dataset": dataset, "split": split, "sample_id": sample, "source_id": source, "uri": uri, "target": target,
        "class_index": index, "thumbnail": None,
    }  # fmt: skip
