"""``runner audit``: from a model file and one sentence to a spec.

``describe(request)`` returns the text of a spec that ``runner exec`` runs; nothing is loaded or run here. The spec is
meant to be read, kept and edited, so it is written in the short form that a person would use.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from runner.errors import UsageError

PACKAGED_CORPUS = ("cifar10-test", "tuxpaint-stamps", "google-emoji", "fluent-3d", "openclipart")
CAPTIONED_SETS = ("google-emoji", "fluent-3d", "tuxpaint-stamps", "openclipart")
MANY_TARGETS = 20
MAX_CONFIG = 16 << 20
"""Bytes of a model's ``config.json`` above which it is not read."""
_PREPROCESS = "--preprocess '{size: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}'"


@dataclass(frozen=True)
class AuditRequest:
    """What the user said on the command line; None = not said.

    ``models``: one to audit, or two to compare on the same pictures; ``architectures``: one for both, or one each.
    ``verifier`` checks that the pictures show their class: ``embedded`` (a small ImageNet classifier), ``llm`` (the language
    model, which must then read pictures) or ``none``; ``calibration``: labelled pictures that tell how good it is, a folder
    of class folders. ``include``: circumstances to test in any case, ``lighting=dark,bright``. ``preprocess``: what
    the models expect, as the spec writes it: ``{size: 224, mean: [...], std: [...]}``.
    """

    models: list[str]
    task: str
    classes: list[str] | None = None
    targets: list[str] | None = None
    corpus: list[str] = field(default_factory=list)
    llm: str = "asset:chat-default"
    llm_model: str | None = None
    encoder: str = "embedded"
    labels: list[str] | None = None
    architectures: list[str] = field(default_factory=list)
    attributes: int = 4
    k: int = 100
    review: bool = False
    verifier: str = "embedded"
    calibration: str | None = None
    include: list[str] = field(default_factory=list)
    preprocess: str | None = None
    fail_on: dict[str, int] = field(default_factory=dict)


def describe(request: AuditRequest, folder: Path) -> tuple[str, str]:
    """Name and text of the spec for ``request``, with paths relative to ``folder`` where the spec will stand.

    Raises ``UsageError`` where something that only the user can know is missing.
    """
    if not 1 <= len(request.models) <= 2:
        raise UsageError("give one model to audit, or two to compare", hint="--model A --model B")
    if len(request.architectures) > len(request.models):
        raise UsageError("more architectures than models", hint="one --architecture for both, or one each")
    labels = request.labels or model_labels(request.models[0])
    classes = request.classes or labels
    if not classes:
        raise UsageError(
            f"{request.models[0]} does not say which classes it tells apart",
            hint="name them in the model's order: --classes cat,dog,...",
        )
    targets = choose_targets(classes, request.targets)
    name = "audit-" + "-vs-".join(slug(model_name(model)) for model in request.models)
    return name, _text(name, request, classes, targets, folder)


def model_name(model: str) -> str:
    """What to call a model: the name of its file or folder."""
    return Path(model.removeprefix("asset:")).stem or model


def model_labels(model: str) -> list[str] | None:
    """Class names from a Hugging Face folder's ``config.json`` (``id2label`` in index order); None where there are none."""
    config = Path(model, "config.json")
    if not config.is_file():
        return None
    try:
        if config.stat().st_size > MAX_CONFIG:
            raise ValueError(f"it has more than {MAX_CONFIG:,} bytes")
        names = json.loads(config.read_text("utf8")).get("id2label") or {}
        return [str(names[key]) for key in sorted(names, key=int)] or None
    except (ValueError, AttributeError, OSError, RecursionError) as error:
        raise UsageError(f"{config}: not a model configuration ({error})") from error


def choose_targets(classes: list[str], wanted: list[str] | None) -> list[str] | None:
    """The classes to audit; None = all. Refuses to spend hours without being asked."""
    if wanted == ["all"]:
        return None
    if wanted:
        unknown = [name for name in wanted if name not in classes]
        if unknown:
            raise UsageError(
                f"--targets: not among the classes: {', '.join(unknown)}", hint=f"classes: {', '.join(classes[:20])}"
            )
        return wanted
    if len(classes) > MANY_TARGETS:
        raise UsageError(
            f"the model tells {len(classes)} classes apart; auditing each would take long",
            hint="name those that matter (--targets cat,dog) or say --targets all",
        )
    return None


def bars(texts: list[str]) -> dict[str, int]:
    """``disfavoured=1`` as the spec has it. Raises ``UsageError`` for anything else; the spec's own check names the verdicts."""
    found = {}
    for text in texts:
        verdict, _, number = text.partition("=")
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise UsageError(f"--fail-on {text}: not a verdict and a number", hint="--fail-on disfavoured=1")
        found[verdict.strip()] = int(number)
    return found


def slug(text: str) -> str:
    """Lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "model"


def corpus_source(text: str, folder: Path) -> dict[str, str]:
    """A source of images as the spec writes it: a packaged set, a folder, shards, Parquet files, a list of links."""
    from runner.data.sources.recognise import recognise

    if text.startswith("packaged:"):
        return {"packaged": text.removeprefix("packaged:")}
    kind = recognise(text)
    if kind is None:
        raise UsageError(
            f"--corpus: no such folder: {text}",
            hint="a folder of pictures or of img2dataset, 'shards/*.tar', 'files/*.parquet', "
            "a list of links (.csv, .tsv, .jsonl, .txt, .parquet) or packaged:NAME",
        )
    return {kind: _relative(text, folder)}


def _relative(text: str, folder: Path) -> str:
    path = Path(text).expanduser().absolute()
    try:
        return "./" + path.relative_to(folder.absolute()).as_posix()
    except ValueError:
        return str(path)


def _subjects(request: AuditRequest, folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of ``models:`` for the classifiers: ``subject``, and ``second`` where two are compared."""
    return {
        name: _subject(request, model, number, folder)
        for number, (name, model) in enumerate(zip(("subject", "second"), request.models, strict=False))
    }


def _subject(request: AuditRequest, model: str, number: int, folder: Path) -> dict[str, Any]:
    path = model if model.startswith("asset:") else _relative(model, folder)
    if Path(model).is_dir():
        return {"provider": "huggingface", "path": path}
    subject: dict[str, Any] = {"provider": "file", "path": path}
    if request.architectures:
        subject["architecture"] = request.architectures[min(number, len(request.architectures) - 1)]
    if request.preprocess:
        subject["preprocess"] = _preprocess(request.preprocess)
    elif not model.startswith("asset:") and sniffed(Path(model)) == "onnx":
        # Asked for now: the file itself does not say it, and the model is loaded last.
        raise UsageError(f"{model}: ONNX does not say how pictures are preprocessed", hint=_PREPROCESS)
    labels = request.labels or request.classes
    return subject | ({"labels": _plains(labels)} if labels else {})


def _evidence(request: AuditRequest, folder: Path) -> dict[str, dict[str, Any]]:
    """The steps that say what the retrieved pictures are worth: who shows the class, what is measurable, what is separable."""
    steps: dict[str, dict[str, Any]] = {}
    measured: dict[str, Any] = {"uses": "c2b.measure", "images": "$images", "bindings": "$bindings"}
    if request.verifier != "none":
        model = "$llm" if request.verifier == "llm" else "$verifier"
        steps["checked"] = {"uses": "c2b.verify", "images": "$images", "verifier": model}
        if request.calibration:
            steps["checked"]["calibration"] = calibration_source(request.calibration, folder)
        measured["checked"] = "$checked"
    return steps | {
        "bindings": {"uses": "c2b.bind", "llm": "$llm", "biases": "$biases"},
        "measured": measured,
        "separable": {
            "uses": "c2b.separability", "images": "$images", "measured": "$measured", "corpus": "$index",
            "encoder": "$encoder",
        },
    }  # fmt: skip


def _evidence_of(request: AuditRequest) -> dict[str, str]:
    """What the assessment is told of it."""
    checked = {} if request.verifier == "none" else {"checked_targets": "$checked"}
    return {**checked, "measured": "$measured", "separability": "$separable"}


def _verifier(request: AuditRequest) -> dict[str, dict[str, Any]]:
    """The entry of ``models:`` for a verifier of its own."""
    if request.verifier not in ("embedded", "llm", "none"):
        raise UsageError(f"--verifier {request.verifier}: unknown", hint="embedded, llm or none")
    if request.verifier != "embedded":
        return {}
    return {"verifier": {"provider": "file", "path": "asset:efficientnet-lite0"}}


def calibration_source(text: str, folder: Path) -> dict[str, Any]:
    """Labelled pictures as the spec writes them: a folder of class folders, or a packaged set."""
    source: dict[str, Any] = dict(corpus_source(text, folder))
    return source | ({"label_from_folder": True} if "folder" in source else {})


def included(texts: list[str]) -> list[dict[str, Any]]:
    """``lighting=dark,bright`` as c2b.propose takes it; ``lighting:luminance=dark,bright`` names the measurement too."""
    found = []
    for text in texts:
        name, _, values = text.partition("=")
        attribute, _, measure = (part.strip() for part in name.partition(":"))
        listed = [value.strip() for value in values.split(",") if value.strip()]
        if not attribute or len(listed) < 2:
            raise UsageError(f"--include {text}: not a circumstance with values", hint="--include lighting=dark,bright")
        found.append(
            {"attribute": _plain(attribute), "values": _plains(listed)} | ({"measure": measure} if measure else {})
        )
    return found


def _preprocess(text: str) -> Any:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"--preprocess {text}: not a mapping", hint=_PREPROCESS)
    return found


def sniffed(path: Path) -> str:
    """The format of a model file; empty where there is none: the loader says what is wrong with it."""
    from runner.errors import ModelRefused
    from runner.models.classifier.sniff import sniff

    try:
        return sniff(path).format
    except ModelRefused:
        return ""


def _verdicts(request: AuditRequest) -> dict[str, dict[str, Any]]:
    """The steps that judge: one assessment a model, on the same pictures, and their comparison."""
    assess = {"uses": "c2b.assess", "images": "$images", **_evidence_of(request)}
    if len(request.models) == 1:
        return {"verdict": {**assess, "classifier": "$subject"}}
    first, second = (model_name(model) for model in request.models)
    names = (first, second if second != first else f"{second} (second)")
    # The report calls each audit by its step.
    one, two = (f"verdict_{slug(name).replace('-', '_')}"[:64] for name in names)
    return {
        one: {**assess, "classifier": "$subject"},
        two: {**assess, "classifier": "$second"},
        "comparison": {
            "uses": "c2b.compare", "first": f"${one}", "second": f"${two}",
            "first_name": _plain(names[0]), "second_name": _plain(names[1]),
        },
    }  # fmt: skip


def _chat(request: AuditRequest, folder: Path) -> dict[str, Any]:
    if request.llm.startswith(("http://", "https://")):
        if not request.llm_model:
            raise UsageError("--llm URL needs the name of a model there", hint="--llm-model Qwen/Qwen3-8B")
        return {"provider": "openai", "model": request.llm_model, "base_url": request.llm}
    model = request.llm if request.llm.startswith("asset:") else _relative(request.llm, folder)
    return {"provider": "llamacpp", "model": model}


def _encoder(request: AuditRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """The encoder's entry of ``models:`` and the steps that it needs."""
    if request.encoder == "embedded":
        corpus = [{"packaged": name} for name in CAPTIONED_SETS]
        return {"provider": "embedded_mini", "head": "$head.head"}, {
            "head": {"uses": "encoder.fit_mini", "corpus": corpus}
        }
    name, _, weights = request.encoder.partition("/")
    if not weights:
        raise UsageError("--encoder: write NAME/WEIGHTS, such as ViT-B-32/laion2b_s34b_b79k, or 'embedded'")
    return {"provider": "open_clip", "name": name, "weights": weights}, {}


def _text(
    name: str,
    request: AuditRequest,
    classes: list[str],
    targets: list[str] | None,
    folder: Path,
) -> str:
    encoder, steps = _encoder(request)
    corpus = [corpus_source(text, folder) for text in request.corpus] or [{"packaged": n} for n in PACKAGED_CORPUS]
    propose: dict[str, Any] = {
        "uses": "c2b.propose",
        "llm": "$llm",
        "task": _plain(request.task),
        "classes": _plains(classes),
    }
    if targets:
        propose["targets"] = _plains(targets)
    propose["max_attributes"] = request.attributes
    if request.include:
        propose["include"] = included(request.include)
    if request.review:
        propose["review"] = True
    steps |= {
        "index": {"uses": "retrieval.index", "encoder": "$encoder", "corpus": corpus},
        "biases": propose,
        "captions": {"uses": "c2b.caption", "llm": "$llm", "biases": "$biases"},
        "images": {
            "uses": "retrieval.search",
            "encoder": "$encoder",
            "corpus": "$index",
            "queries": "$captions",
            "k": request.k,
        },
        **_evidence(request, folder),
        **_verdicts(request),
    }
    head: dict[str, Any] = {"name": name, "description": f"Where does this classifier fail? {request.task}"}
    if request.encoder == "embedded" or request.llm.startswith("asset:"):
        head["profile"] = "embedded"
    if request.fail_on:
        head["fail_on"] = request.fail_on
    models = {"llm": _chat(request, folder), "encoder": encoder, **_subjects(request, folder), **_verifier(request)}
    return "\n".join(
        [_block(head), "models:", _entries(models), "steps:", _entries(steps), "results: out/results.duckdb", ""]
    )


def _plain(text: str) -> str:
    """A text as a spec writes it: a leading dollar would refer to something."""
    return f"${text}" if text.startswith("$") else text


def _plains(texts: list[str]) -> list[str]:
    return [_plain(text) for text in texts]


def _block(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000).rstrip()


def _entries(values: dict[str, dict[str, Any]]) -> str:
    """One entry a line, in flow style; long ones are left to the reader's editor to fold."""
    lines = [
        f"  {key}: {yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6).rstrip()}"
        for key, value in values.items()
    ]
    return "\n".join(lines)
