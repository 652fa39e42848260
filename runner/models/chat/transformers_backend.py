"""Language models of transformers inside this process, batched and constrained: causal ones from a folder or a GGUF
file, image-text-to-text ones from a folder.

Nothing is fetched and no code from the folder runs; weights are read from safetensors or GGUF only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ModelRefused
from runner.imports import building, importing
from runner.models.chat.batching import Batcher
from runner.models.chat.transformers_prompts import Prompts, Reader, TextReader, encode_all
from runner.models.chat.wire import Payload, RawReply, SendFailed, count_images, finite, may_be_blank, says_nothing

PRUNED = "pruning.json"
"""In folders whose layers have widths of their own: transformers alone cannot build them."""

if TYPE_CHECKING:
    import torch
    from llguidance import LLTokenizer

    from runner.models.chat.decoding import Row


class TransformersBackend:
    """One local model. Loaded on the first question, freed by ``close``."""

    def __init__(
        self, path: Path, *, gguf_file: str | None = None, dtype: str = "auto", batch_size: int = 8, device: str = "cpu"
    ) -> None:
        self._path = path
        self._folder, self._gguf_file = find_model(path, gguf_file)
        self._dtype, self._device = dtype, device
        self._batcher = Batcher(self._generate, batch_size, "transformers-chat")
        self._model: LoadedModel | None = None

    async def send(self, payload: Payload) -> RawReply:
        """One generation, together with others asked for at the same time."""
        return await self._batcher.ask(payload)

    def reads_text_only(self) -> bool:
        """As the folder's config says."""
        return not _sees(self._folder, self._gguf_file)

    def close(self) -> None:
        """Finish what was asked for, then free the weights."""
        self._batcher.close()
        self._model = None

    def _generate(self, payloads: Sequence[Payload]) -> list[RawReply | SendFailed]:
        if self._model is None:
            self._model = load(self._folder, self._gguf_file, self._dtype, self._device, self._path.name)
        return self._model.answer(payloads, self._path.name)


def find_model(path: Path, gguf_file: str | None) -> tuple[Path, str | None]:
    """Folder and GGUF name of what a spec points at. Raises ``ModelRefused`` when there is no model in a safe format."""
    if path.is_file():
        path, gguf_file = path.parent, path.name
    if gguf_file is not None:
        from runner.models.chat.llamacpp import check_gguf

        check_gguf(path / gguf_file)
    elif not (path / "config.json").is_file():
        raise ModelRefused(f"{path} holds no config.json", hint="`path` wants a model folder or a GGUF file")
    elif not any(path.glob("*.safetensors")):
        raise ModelRefused(
            f"{path} holds no safetensors weights",
            hint="other weight files can run code and are not loaded; convert them",
        )
    return path, gguf_file


def _sees(folder: Path, gguf_file: str | None) -> bool:
    from runner.models.chat.transformers_vision import takes_images

    return gguf_file is None and takes_images(folder)


def load(folder: Path, gguf_file: str | None, dtype: str, device: str, name: str) -> LoadedModel:
    """Read tokenizer or processor, and weights; ``name`` stands in messages. Raises ``ModelRefused``."""
    from llguidance.hf import from_tokenizer

    seeing = _sees(folder, gguf_file)
    model, processor = _read(folder, gguf_file, dtype, seeing=seeing)
    tokenizer = processor.tokenizer if seeing else processor
    if not (getattr(processor, "chat_template", None) or tokenizer.chat_template):
        raise ModelRefused(f"{folder} has no chat template", hint="take the instruction-tuned version of the model")
    model = model.to(device).eval()
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    ends = _end_tokens(model, tokenizer)
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    reader = _reader(processor, name, min(ends, default=0), room, seeing=seeing)
    return LoadedModel(model, tokenizer, from_tokenizer(tokenizer, vocabulary, sorted(ends)), ends, reader)


def _read(folder: Path, gguf_file: str | None, dtype: str, *, seeing: bool) -> tuple[Any, Any]:
    """The model, and its processor (``seeing``) or tokenizer."""
    if gguf_file is None and (folder / PRUNED).is_file():
        from runner.models.lvlm.loading import read

        found = read(folder, dtype=_own_dtype(folder) if dtype == "auto" else dtype)
        return found.network, found.processor if seeing else found.tokenizer
    from safetensors import SafetensorError

    with importing:
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
        from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if gguf_file is not None:
        source["gguf_file"] = gguf_file
    words, weights = (AutoProcessor, AutoModelForImageTextToText) if seeing else (AutoTokenizer, AutoModelForCausalLM)
    try:
        processor: Any = words.from_pretrained(folder, **source)
        with building:
            loaded: Any = weights.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **source
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelRefused(f"{folder} cannot be loaded: {error}") from error
    model, report = loaded
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelRefused(f"{folder} lacks weights that its config asks for, such as {some}")
    return model, processor


def _own_dtype(folder: Path) -> str:
    """In which the weights were written, float32 where the config does not say."""
    config = json.loads((folder / "config.json").read_text("utf8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _reader(processor: Any, name: str, pad: int, room: int | None, *, seeing: bool) -> Reader:
    from runner.models.chat.transformers_vision import PictureReader

    return PictureReader(processor, name, room) if seeing else TextReader(processor, name, pad, room)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    declared = model.generation_config.eos_token_id
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)


@dataclass
class LoadedModel:
    """Weights, tokenizer, the tokenizer as the grammar library needs it, the tokens that end a reply, and what makes prompts."""

    model: Any
    tokenizer: Any
    grammar_tokenizer: LLTokenizer
    ends: frozenset[int]
    reader: Reader

    def answer(self, payloads: Sequence[Payload], name: str) -> list[RawReply | SendFailed]:
        """Replies in order; a failure stands in the place of a question that this model cannot take."""
        from runner.models.chat.decoding import rows_of

        answers: dict[int, RawReply | SendFailed] = {}
        groups: dict[bool, dict[int, Row]] = {}
        for place, row in enumerate(rows_of(payloads, self.grammar_tokenizer, self.ends)):
            if isinstance(row, SendFailed):
                answers[place] = row
            else:  # processors take a batch with pictures or one without
                groups.setdefault(count_images(row.payload.messages) > 0, {})[place] = row
        for group in groups.values():
            answers |= zip(group, self._answer_group(list(group.values()), name), strict=True)
        return [answers[place] for place in range(len(payloads))]

    def _answer_group(self, rows: Sequence[Row], name: str) -> list[RawReply | SendFailed]:
        """Replies to questions that can be generated together."""
        prompts, failed = encode_all(self.reader, [row.payload for row in rows])
        live = [row for place, row in enumerate(rows) if place not in failed]
        if prompts is not None:
            self._run(live, prompts)
        lengths = iter(prompts.lengths if prompts is not None else ())
        return [failed.get(place) or self._reply(row, next(lengths), name) for place, row in enumerate(rows)]

    def _run(self, rows: Sequence[Row], prompts: Prompts) -> None:
        """Generate until every row is over; the rows hold what was written."""
        import torch

        with importing:
            from transformers import GenerationConfig

        pad = min(self.ends, default=0)
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max(row.payload.max_tokens for row in rows),
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=sorted(self.ends),
        )
        with torch.inference_mode():
            self.model.generate(
                **{name: self._placed(tensor) for name, tensor in prompts.tensors.items()},
                generation_config=config,
                logits_processor=[_Chooser(rows, pad)],
                stopping_criteria=[_AllOver(rows)],
            )

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the model's device; pixels in its precision."""
        return tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() else None)

    def _reply(self, row: Row, prompt_tokens: int, name: str) -> RawReply | SendFailed:
        text = self.tokenizer.decode(row.text_ids(), skip_special_tokens=True)
        finish, likelihood = row.finish or "length", finite(row.log_likelihood)
        # Accepted at once where it may be blank: no transport lies between that could have lost the text.
        if says_nothing(text, finish) and not may_be_blank(row.payload, finish):
            return SendFailed(f"{name} wrote nothing", scope="item")
        return RawReply(text, finish, name, prompt_tokens, len(row.written), log_likelihood=likelihood)


class _Chooser:
    """A logits processor that leaves each row exactly one token: the one the row chose."""

    def __init__(self, rows: Sequence[Row], pad: int) -> None:
        self._rows, self._pad = rows, pad

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        chosen = torch.full_like(scores, float("-inf"))
        values = scores.float().cpu().numpy().copy()
        for place, row in enumerate(self._rows):
            token = self._pad if row.finish else row.choose(values[place])
            chosen[place, token] = 0.0
        return chosen


class _AllOver:
    """A stopping criterion: every row has said what it has to say."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        import torch

        return torch.tensor([row.finish is not None for row in self._rows], device=input_ids.device)
