"""Causal language models of transformers inside this process, from a folder or a GGUF file, batched and constrained.

Nothing is fetched and no code from the folder runs; weights are read from safetensors or GGUF only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ModelRefused
from runner.imports import importing
from runner.models.chat.batching import Batcher
from runner.models.chat.wire import Payload, RawReply, SendFailed, text_messages

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

    def close(self) -> None:
        """Finish what was asked for, then free the weights."""
        self._batcher.close()
        self._model = None

    def _generate(self, payloads: Sequence[Payload]) -> list[RawReply | SendFailed]:
        if self._model is None:
            self._model = load(self._folder, self._gguf_file, self._dtype, self._device)
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


def load(folder: Path, gguf_file: str | None, dtype: str, device: str) -> LoadedModel:
    """Read tokenizer and weights. Raises ``ModelRefused``."""
    from llguidance.hf import from_tokenizer
    from safetensors import SafetensorError

    with importing:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if gguf_file is not None:
        source["gguf_file"] = gguf_file
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **source)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **source
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelRefused(f"{folder} cannot be loaded: {error}") from error
    model, report = loaded
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelRefused(f"{folder} lacks weights that its config asks for, such as {some}")
    if not tokenizer.chat_template:
        raise ModelRefused(f"{folder} has no chat template", hint="take the instruction-tuned version of the model")
    model = model.to(device).eval()
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    ends = _end_tokens(model, tokenizer)
    return LoadedModel(model, tokenizer, from_tokenizer(tokenizer, vocabulary, sorted(ends)), ends)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    declared = model.generation_config.eos_token_id
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)


@dataclass
class LoadedModel:
    """Weights, tokenizer, the tokenizer as the grammar library needs it, and the tokens that end a reply."""

    model: Any
    tokenizer: Any
    grammar_tokenizer: LLTokenizer
    ends: frozenset[int]

    def answer(self, payloads: Sequence[Payload], name: str) -> list[RawReply | SendFailed]:
        """Replies in order; a failure stands in the place of a question that this model cannot take."""
        from runner.models.chat.decoding import Row, rows_of

        rows: list[Row | SendFailed] = rows_of(payloads, self.grammar_tokenizer, self.ends)
        prompts: list[list[int]] = []
        for place, row in enumerate(rows):
            if isinstance(row, SendFailed):
                continue
            try:
                prompts.append(self._prompt(row.payload, name))
            except SendFailed as failure:
                rows[place] = failure
        live = [row for row in rows if isinstance(row, Row)]
        if live:
            self._run(live, prompts)
        lengths = iter(prompts)
        return [row if isinstance(row, SendFailed) else self._reply(row, len(next(lengths)), name) for row in rows]

    def _prompt(self, payload: Payload, name: str) -> list[int]:
        messages = text_messages(payload.messages, name)
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        room = getattr(self.model.config, "max_position_embeddings", None)
        if room is not None and len(ids) + payload.max_tokens > room:
            wanted = f"{len(ids)} tokens and a reply of {payload.max_tokens}"
            raise SendFailed(f"context too long: {wanted}, {name} holds {room}", scope="item")
        return ids

    def _run(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> None:
        """Generate until every row is over; the rows hold what was written."""
        import torch

        with importing:
            from transformers import GenerationConfig

        pad = min(self.ends, default=0)
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=self.model.device)
        seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.model.device)
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max(row.payload.max_tokens for row in rows),
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=sorted(self.ends),
        )
        with torch.inference_mode():
            self.model.generate(
                input_ids=ids,
                attention_mask=seen,
                generation_config=config,
                logits_processor=[_Chooser(rows, pad)],
                stopping_criteria=[_AllOver(rows)],
            )

    def _reply(self, row: Row, prompt_tokens: int, name: str) -> RawReply | SendFailed:
        text = self.tokenizer.decode(row.text_ids(), skip_special_tokens=True)
        if not text.strip() and row.finish != "length":
            return SendFailed(f"{name} wrote nothing", scope="item")
        return RawReply(text, row.finish or "length", name, prompt_tokens, len(row.written))


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
