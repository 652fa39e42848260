"""Images a second through the runner against bare loops over the same pictures in the same run.

    python benchmarks/throughput.py [--pictures 256] [--small 2000] [--repeats 3]

Two bare loops: ``model`` is the model alone on batches that are prepared beforehand, the most that this machine can do;
``loop`` decodes, prepares and runs one batch after the other, as a script would. The runner does what ``loop`` does, and
besides hashes, checks sizes, saves every result durably and, for the encoder, writes the index. The encoder is the
embedded mini encoder under a ridge head that is fitted here in a moment (its speed does not depend on the fit); the
pictures are the packaged stamps (photographs and drawings) as a folder without captions, which the loops do not embed
either. The classifier is the packaged CIFAR-10 ResNet-56 on its
test set.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.index import build
from runner.assets import ensure
from runner.context import StepContext, local_context
from runner.data.images import decode
from runner.data.places import Place
from runner.data.sources import Source, open_source
from runner.models.classifier.loader import load_classifier
from runner.models.classifier.preprocess import PreprocessSpec
from runner.models.encoders.backbone import Backbone, prepare
from runner.models.encoders.heads import MiniHeads, save_heads
from runner.models.encoders.mini import EmbeddedMini
from runner.models.encoders.sentence import MeanPooled
from runner.nodes.encoder.fitting import fit_heads, make_pairs
from runner.nodes.predicting import predict

BATCH = 64
FITTED_ON = 32
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def asset(name: str) -> Path:
    """Path of a packaged asset, fetched where it is missing."""
    return Path(ensure(name, print).path)


def mini_encoder(folder: Path) -> EmbeddedMini:
    """The embedded mini encoder under a head fitted to a few pictures; it remembers no features."""
    backbone, sentences = Backbone(asset("tinyvit-5m")), MeanPooled(asset("minilm"))
    records = [record for record in open_source({"packaged": "google-emoji", "limit": FITTED_ON}) if record.caption]
    features = backbone.features(np.stack([prepare(decode(record.data)) for record in records]))
    names = [str(record.caption) for record in records]
    ridge, contrastive = fit_heads(make_pairs(features, names, names, sentences.encode), seed=0, epochs=1)
    save_heads(MiniHeads(ridge, contrastive, {}, backbone.identity, sentences.identity, {}), folder)
    return EmbeddedMini(folder, asset("tinyvit-5m"), sentences, kind="ridge")


def plain_loop(pictures: list[bytes], model: Any, run: Callable[[np.ndarray], Any]) -> None:
    """Decode, prepare and run, one batch after the other."""
    for start in range(0, len(pictures), BATCH):
        run(np.stack([model.prepare(decode(data)) for data in pictures[start : start + BATCH]]))


def model_alone(prepared: np.ndarray, run: Callable[[np.ndarray], Any]) -> None:
    """Run on batches that are there already."""
    for start in range(0, len(prepared), BATCH):
        run(prepared[start : start + BATCH])


def through_index(source: Source, encoder: EmbeddedMini, ctx: StepContext, folder: Path) -> None:
    """Build an index, as the step ``retrieval.index`` does."""
    index = build(folder / "index", source, encoder, ctx, batch_size=BATCH)
    assert len(index) == sum(source["embedded"] for source in index.sources) > 0


def measured(ways: dict[str, Callable[[Path], None]], count: int, repeats: int) -> dict[str, float]:
    """Images a second of each way: median over rounds in which all take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                way(Path(folder))
                seconds[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(taken) for name, taken in seconds.items()}


def show(title: str, rates: dict[str, float]) -> None:
    """One block of the table."""
    print(title)
    for name, rate in rates.items():
        print(f"  {name:8} {rate:8.1f} images/s   the runner makes {rates['runner'] / rate:.2f} x of it", flush=True)


def encoder_rates(pictures: int, repeats: int) -> None:
    """The retrieval encoder through the build of an index."""
    data = list({record.data: None for record in open_source({"packaged": "tuxpaint-stamps", "limit": pictures})})
    with tempfile.TemporaryDirectory() as head, tempfile.TemporaryDirectory() as photos:
        for number, one in enumerate(data):
            Path(photos, f"{number:05d}.png").write_bytes(one)
        source = open_source({"folder": photos})
        encoder = mini_encoder(Path(head))
        prepared = np.stack([encoder.prepare(decode(one)) for one in data])
        ways: dict[str, Callable[[Path], None]] = {
            "model": lambda _: model_alone(prepared, encoder.encode_prepared),
            "loop": lambda _: plain_loop(data, encoder, encoder.encode_prepared),
            "runner": lambda folder: through_index(source, encoder, local_context(folder), folder),
        }
        show(f"embedded_mini, {len(data)} pictures", measured(ways, len(data), repeats))


def classifier_rates(pictures: int, repeats: int) -> None:
    """The classifier through ``predict``, which the audit uses."""
    classifier = load_classifier(
        asset("cifar10-resnet56"),
        architecture="runner:cifar_resnet56",
        labels=CLASSES,
        preprocess=PreprocessSpec(size=32),
    )
    records = {record.data: record.uri for record in open_source({"packaged": "cifar10-test", "limit": pictures})}
    placed = [(Place("cifar10-test", uri), data) for data, uri in records.items()]
    prepared = np.stack([classifier.prepare(decode(data)) for data in records])
    ways: dict[str, Callable[[Path], None]] = {
        "model": lambda _: model_alone(prepared, classifier.logits),
        "loop": lambda _: plain_loop(list(records), classifier, classifier.logits),
        "runner": lambda folder: run_predict(classifier, placed, folder),
    }
    show(f"cifar10-resnet56, {len(placed)} pictures", measured(ways, len(placed), repeats))


def run_predict(classifier: Any, placed: list[tuple[Place, bytes]], folder: Path) -> None:
    """One forward pass a picture, saved in an item cache on disk as a run has it."""
    from runner.graph import Workspace

    workspace = Workspace(folder).create()
    ctx = local_context(folder)
    ctx.items = workspace.items
    assert predict(classifier, placed, ctx, batch_size=BATCH).passes == len(placed)
    workspace.close()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Images a second through the runner and through bare loops.")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--small", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    encoder_rates(args.pictures, args.repeats)
    classifier_rates(args.small, args.repeats)


if __name__ == "__main__":
    main()
