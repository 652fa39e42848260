"""Small folders in the published layout: seven files of samples, and frames that say where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from runner.nodes.proactive.records import DATASET_IDS, SCENARIOS, frame_uris, parse_record
from tests.nodes.proactive.material import published

FRAMES = {"ROD": 6, "VSOD": 5, "MVP-N": 3, "IN-C": 5, "QD": 4, "CIT": 6, "COCO": 3}


def samples_file(root: Path, scenario: str) -> Path:
    """Where the samples of a scenario stand."""
    return root / f"{DATASET_IDS[scenario]}_preprocessed.jsonl"


def write_samples(root: Path, scenario: str, samples: Sequence[Mapping[str, Any]]) -> None:
    """The file of a scenario."""
    root.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    samples_file(root, scenario).write_text(lines, encoding="utf8")


def write_frames(root: Path, scenario: str, sample: Mapping[str, Any]) -> None:
    """A frame of its own colour for every file of a sample."""
    for number, uri in enumerate(frame_uris(parse_record(scenario, sample))):
        path = root / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 300) if scenario == "COCO" else (24, 18), (10 * number, 40, 90)).save(path)


def write_release(root: Path, count: int = 2, scenarios: Sequence[str] = SCENARIOS) -> Path:
    """``count`` samples of each scenario with all their frames; the folder."""
    for scenario in scenarios:
        samples = [published(scenario, number, FRAMES[scenario]) for number in range(1, count + 1)]
        write_samples(root, scenario, samples)
        for sample in samples:
            write_frames(root, scenario, sample)
    return root
