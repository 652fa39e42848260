"""How likely a model finds each of the options shown with a picture: of their letters, or of their texts as replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from runner.errors import ModelRefused
from runner.models.lvlm.batches import Batch, Record, Writer
from runner.models.lvlm.capture import logits_of, states_at
from runner.models.lvlm.generating import Question, means, reply_log_likelihoods
from runner.nodes.proactive.rendering import LETTERS

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from runner.models.lvlm.loading import LoadedLvlm

Form = Literal["letter", "text"]
Probabilities = NDArray[np.float64]


def option_probabilities(
    loaded: LoadedLvlm,
    images: Sequence[Image],
    texts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    form: Form = "letter",
    normalise: Literal["none", "tokens"] = "none",
    batch_size: int = 8,
) -> list[Probabilities]:
    """Probabilities over the options of each of N turns, float64 (options of the turn,), each summing to 1.

    ``images``, ``texts``: what one turn shows. ``letter``: softmax of the log-probabilities of the options' letters as the first token of
    the reply, one forward a turn. ``text``: softmax of the log-likelihood (nats) of each option as the whole reply, with ``tokens`` a token
    of it. Raises ``ModelRefused`` where letters share a token, ``DataError`` for pictures or prompts that the model cannot take.
    """
    found: list[Probabilities] = []
    writer = Writer(loaded)
    for at in range(0, len(texts), batch_size):
        some = slice(at, at + batch_size)
        questions = [Question([image], text) for image, text in zip(images[some], texts[some], strict=True)]
        if form == "letter":
            found += _of_letters(loaded, writer, questions, [len(shown) for shown in options[some]])
        else:
            found += _of_texts(loaded, questions, options[some], normalise)
    return found


def _of_letters(
    loaded: LoadedLvlm, writer: Writer, questions: Sequence[Question], counts: Sequence[int]
) -> list[Probabilities]:
    import torch

    tokens = letter_tokens(writer, max(counts, default=0))
    with torch.inference_mode():
        logits = next_token_logits(loaded, writer, questions)[:, tokens].double().cpu()
    return [row[:count].softmax(0).numpy() for row, count in zip(logits, counts, strict=True)]


def _of_texts(
    loaded: LoadedLvlm, questions: Sequence[Question], options: Sequence[Sequence[str]], normalise: str
) -> list[Probabilities]:
    scores = reply_log_likelihoods(loaded, questions, options)
    values = (means(scores) if normalise == "tokens" else scores.totals).double()
    return [row[: len(shown)].softmax(0).numpy() for row, shown in zip(values, options, strict=True)]


def next_token_logits(loaded: LoadedLvlm, writer: Writer, questions: Sequence[Question]) -> Tensor:
    """Logits of the first token of the reply, float32 (N, V), in the caller's gradient mode.

    Prompts are padded on the right and read at their ends, so that a turn's numbers do not hang on who stands beside it.
    """
    texts = [writer.prompt(question.record()) for question in questions]
    tensors = writer.tensors(texts, [question.images for question in questions], side="right")
    batch = Batch(tensors, [""] * len(texts)).to(loaded.device, loaded.dtype)
    states = states_at(loaded.network, batch, ends(batch["attention_mask"]))
    return logits_of(loaded.network, states).float()


def ends(attention: Tensor) -> Tensor:
    """bool (B, S): the last position of each row of a mask (B, S) that is padded on the right."""
    import torch

    places = torch.arange(attention.shape[1], device=attention.device)
    return places == attention.sum(1, keepdim=True) - 1


# --- which token begins a reply --------------------------------------------------------------------------------------


def first_tokens(writer: Writer, replies: Sequence[str]) -> list[int]:
    """The token with which each reply begins, as the chat template writes it after a question."""
    return [_first_token(writer, reply) for reply in replies]


def letter_tokens(writer: Writer, count: int) -> list[int]:
    """Tokens of A, B, ... as the beginning of a reply. Raises ``ModelRefused`` where two of them are one token."""
    tokens = first_tokens(writer, LETTERS[:count])
    if len(set(tokens)) < count:
        raise ModelRefused(
            "its tokenizer writes the first letter of a reply as the same token for several letters",
            hint="Take form: text.",
        )
    return tokens


def _first_token(writer: Writer, reply: str) -> int:
    text, spans = writer.conversation(Record("a reply", [], [("user", "?"), ("assistant", reply)]))
    ids, at = writer.words(text)
    return next(i for i, (start, end) in zip(ids, at, strict=True) if start < spans[0].end and end > spans[0].start)
