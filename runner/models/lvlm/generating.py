"""Replies of a network in this process, and how likely given replies are: greedy, batched, without a server."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.errors import DataError
from runner.imports import importing
from runner.models.lvlm.batches import IGNORED, Batch, Record, Writer
from runner.models.lvlm.capture import logits_of, states_at

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from runner.models.lvlm.loading import LoadedLvlm

ROWS_AT_ONCE = 512
"""Positions whose logits over the vocabulary are held together."""
REPLIES_AT_ONCE = 64


@dataclass(frozen=True)
class Question:
    """One question: pictures are shown before the text, or at its signs ``<image>``."""

    images: Sequence[Image]
    text: str
    system: str = ""

    def record(self, *reply: str) -> Record:
        """As a conversation, ending with ``reply`` where one is given."""
        turns = [("system", self.system)] * bool(self.system) + [("user", self.text)]
        return Record(self.text[:60], self.images, [*turns, *(("assistant", text) for text in reply)])


def generate(
    loaded: LoadedLvlm,
    questions: Sequence[Question],
    *,
    max_new_tokens: int = 16,
    choices: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """Greedy replies, all questions as one batch padded on the left, without special tokens and blanks around.

    ``choices``: replies that may be given to each question; the likeliest one is. Raises ``DataError`` for pictures that
    the processor cannot take or a prompt longer than the model holds, ``ModelRefused`` for pictures where it reads text only.
    """
    if choices is not None:
        scores = reply_log_likelihoods(loaded, questions, choices)
        return [some[int(row.argmax())] for some, row in zip(choices, scores.totals, strict=True)]
    writer = Writer(loaded)
    return replies_to(loaded, writer, prompts(writer, loaded, questions), max_new_tokens)


def replies_to(loaded: LoadedLvlm, writer: Writer, inputs: Mapping[str, Any], max_new_tokens: int) -> list[str]:
    """``generate`` for prompts that are tensors already, as ``prompts`` makes them."""
    import torch

    _check_room(loaded, int(inputs["input_ids"].shape[1]) + max_new_tokens)
    with torch.inference_mode():
        written = loaded.network.generate(**inputs, generation_config=_greedy(writer, max_new_tokens))
    new = written[:, inputs["input_ids"].shape[1] :]
    return [str(text).strip() for text in loaded.tokenizer.batch_decode(new, skip_special_tokens=True)]


def prompts(writer: Writer, loaded: LoadedLvlm, questions: Sequence[Question]) -> Batch:
    """The questions up to where the model replies, padded on the left, on the model's device."""
    texts = [writer.prompt(question.record()) for question in questions]
    tensors = writer.tensors(texts, [question.images for question in questions], side="left")
    return Batch(tensors, [""] * len(questions)).to(loaded.device, loaded.dtype)


def _greedy(writer: Writer, max_new_tokens: int, min_new_tokens: int | None = None) -> Any:
    with importing:
        from transformers import GenerationConfig
    ends = sorted(writer.ends.values())
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, do_sample=False, eos_token_id=ends,
        pad_token_id=min(ends, default=0),
    )  # fmt: skip


def _check_room(loaded: LoadedLvlm, wanted: int) -> None:
    room = getattr(loaded.network.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and wanted > room:
        raise DataError(f"context too long: {wanted} tokens with the reply, {loaded.name} holds {room}")


# --- likelihood ------------------------------------------------------------------------------------------------------


def token_nll(loaded: LoadedLvlm, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum of the negative log-likelihoods (nats) of each row's labels, float32 [B], and their number, int64 [B].

    The label of position t is predicted at t - 1; the first position predicts none. Log-softmax in float32, logits at
    label positions only.
    """
    import torch

    with torch.inference_mode():
        placed = batch.to(loaded.device, loaded.dtype)
        labels = placed["labels"][:, 1:]
        counts = labels != IGNORED
        mask = torch.nn.functional.pad(counts, (0, 1))
        states = states_at(loaded.network, placed, mask)
        losses = _losses(loaded.network, states, labels[counts])
        rows = counts.nonzero()[:, 0]
        sums = torch.zeros(len(labels), dtype=torch.float64, device=losses.device).index_add_(0, rows, losses.double())
    return sums.float().cpu(), counts.sum(1).cpu()


def _losses(network: Any, states: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each label [N] at its state [N, D], float32."""
    import torch

    found = [
        torch.nn.functional.cross_entropy(
            logits_of(network, states[at : at + ROWS_AT_ONCE]).float(), labels[at : at + ROWS_AT_ONCE], reduction="none"
        )
        for at in range(0, len(labels), ROWS_AT_ONCE)
    ]
    return torch.cat(found) if found else torch.zeros(0, device=states.device)


class ReplyScores(NamedTuple):
    """``totals``: log-likelihood of each reply with the token that ends it, float32 [B, L], -inf where a question has fewer
    replies; ``tokens``: their number, int64 [B, L]."""

    totals: Tensor
    tokens: Tensor


class _Suffix(NamedTuple):
    """A prompt's text, and each reply as the token ids that follow it, of which those with a true flag count."""

    prefix: str
    ids: list[list[int]]
    counted: list[list[bool]]


def reply_log_likelihoods(
    loaded: LoadedLvlm, questions: Sequence[Question], replies: Sequence[Sequence[str]]
) -> ReplyScores:
    """How likely each reply is. Pictures and prompts run once; all replies go on from there.

    Questions whose prompts have equal lengths run as one batch. Raises as ``generate`` does.
    """
    import torch

    writer, shape = Writer(loaded), (len(questions), max(map(len, replies), default=0))
    totals, tokens = torch.full(shape, -torch.inf), torch.zeros(shape, dtype=torch.int64)
    suffixes = [_suffix(writer, question, some) for question, some in zip(questions, replies, strict=True)]
    encoded = [writer.tensors([s.prefix], [q.images], side="left") for s, q in zip(suffixes, questions, strict=True)]
    groups: dict[tuple[int, int], list[int]] = {}
    for place, one in enumerate(encoded):
        groups.setdefault((one["input_ids"].shape[1], len(replies[place])), []).append(place)
    for (_, count), places in groups.items():
        some = [suffixes[place] for place in places]
        prefix = encoded[places[0]]
        if len(places) > 1:
            prefix = writer.tensors([s.prefix for s in some], [questions[p].images for p in places], side="left")
        found = _continued(loaded, Batch(prefix, []).to(loaded.device, loaded.dtype), some)
        totals[places, :count], tokens[places, :count] = found.totals, found.tokens
    return ReplyScores(totals, tokens)


def _suffix(writer: Writer, question: Question, replies: Sequence[str]) -> _Suffix:
    """Split the conversations with each reply where they begin to differ, at the border of a token."""
    texts, spans = zip(*(writer.conversation(question.record(reply)) for reply in replies), strict=True)
    words = [writer.words(text) for text in texts]
    counted = [
        [start < span[0].end and end > span[0].start for start, end in at]
        for (_, at), span in zip(words, spans, strict=True)
    ]
    border = min(flags.index(True) for flags in counted)
    while border and len({tuple(ids[:border]) for ids, _ in words}) > 1:
        border -= 1
    while True:
        prefix = texts[0][: words[0][1][border][0]]
        if border <= 1 or writer.words(prefix)[0] == words[0][0][:border]:
            break
        border -= 1
    lasts = [len(flags) - flags[::-1].index(True) for flags in counted]
    return _Suffix(
        prefix,
        [ids[border:last] for (ids, _), last in zip(words, lasts, strict=True)],
        [flags[border:last] for flags, last in zip(counted, lasts, strict=True)],
    )


def _continued(loaded: LoadedLvlm, prefix: Batch, suffixes: Sequence[_Suffix]) -> ReplyScores:
    """Scores of all replies [B, L] after prompts of one length."""
    import torch

    with torch.inference_mode():
        _forget_positions(loaded.network)
        first = loaded.network(**prefix, use_cache=True, logits_to_keep=1)
        opening = first.logits[:, -1].float().log_softmax(-1)
        totals, tokens = [], []
        count, step = len(suffixes[0].ids), max(1, REPLIES_AT_ONCE // len(suffixes))
        for at in range(0, count, step):
            cache = copy.deepcopy(first.past_key_values)
            some = _padded(suffixes, slice(at, at + step), loaded.device)
            cache.batch_repeat_interleave(some.shape[1])
            found = _scored(loaded.network, opening, cache, some)
            totals.append(found.totals)
            tokens.append(found.tokens)
    return ReplyScores(torch.cat(totals, 1).cpu(), torch.cat(tokens, 1).cpu())


def _forget_positions(network: Any) -> None:
    """Some layouts keep the shift of positions that the last pictures caused; a prompt without pictures must not go on from it."""
    for module in network.modules():
        if getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None


class _Replies(NamedTuple):
    """Token ids and whether they count, int64 and bool [B, L, T]; padded on the right with what does not count."""

    ids: Tensor
    counted: Tensor

    @property
    def shape(self) -> torch.Size:
        """B, L, T."""
        return self.ids.shape


def _padded(suffixes: Sequence[_Suffix], chosen: slice, device: str) -> _Replies:
    import torch

    rows = [(ids, flags) for s in suffixes for ids, flags in zip(s.ids[chosen], s.counted[chosen], strict=True)]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    flags = torch.tensor([flags + [False] * (width - len(flags)) for _, flags in rows])
    shape = (len(suffixes), -1, width)
    return _Replies(ids.view(shape).to(device), flags.view(shape).to(device))


def _scored(network: Any, opening: Tensor, cache: Any, replies: _Replies) -> ReplyScores:
    """``opening``: log-probabilities [B, V] of the first token; ``cache``: of the prompts, a row a reply."""
    import torch

    batch, count, width = replies.shape
    ids = replies.ids.flatten(0, 1)
    begin = opening.repeat_interleave(count, 0).gather(1, ids[:, :1])
    # Without a mask: nothing is padded before the replies, and positions then follow the cache in every layout.
    logits = network(input_ids=ids, past_key_values=cache, use_cache=True).logits
    later = -torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view(batch * count, width - 1)
    found = torch.cat([begin, later], 1).view(batch, count, width) * replies.counted
    return ReplyScores(found.double().sum(-1).float(), replies.counted.sum(-1))


def means(scores: ReplyScores) -> Tensor:
    """Log-likelihood a token, float32 [B, L]: replies of different lengths beside each other."""
    return scores.totals / scores.tokens.clamp(min=1)


def forced(loaded: LoadedLvlm, inputs: Mapping[str, Any], new_tokens: int) -> None:
    """Generate exactly ``new_tokens`` tokens, whatever they are: to measure how fast that is."""
    import torch

    with torch.inference_mode():
        loaded.network.generate(**inputs, generation_config=_greedy(Writer(loaded), new_tokens, new_tokens))
