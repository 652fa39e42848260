"""Answers drawn from a policy, one forward pass a prompt or token by token, and how likely the policy finds them.

A turn is encoded once; pictures of a LLaVA are kept as what its frozen tower gives. An answer of one token needs the forward of its prompt
only, whatever else was drawn for it: all rollouts of a prompt share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from runner.data.images import UnreadableImage
from runner.errors import DataError
from runner.models.lvlm.batches import Writer
from runner.models.lvlm.generating import Question, prompts
from runner.nodes.finetuning.examples import Inputs, can_keep, projector_inputs
from runner.nodes.finetuning.learner import Learner
from runner.nodes.finetuning.losses import by_chunks
from runner.nodes.finetuning.objective import arguments, logits_of, rows_at_once
from runner.nodes.proactive.likelihood import ends, first_tokens, letter_tokens
from runner.nodes.proactive.pictures import FramePictures, Shown, place_of
from runner.nodes.proactive.returns import Choices, Situation, choices, option_of

if TYPE_CHECKING:
    from runner.nodes.proactive.env import Observation

Tokens = tuple[int, ...]
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


class Answer(NamedTuple):
    """``option``: its number among those shown, or the ``text`` itself where it must be matched, or None: nothing that is shown."""

    tokens: Tokens
    text: str
    option: int | str | None


class Likelihoods(NamedTuple):
    """Log-probabilities (nats, float32) of all answers' tokens one after another (M,), and the mean entropy of where they were drawn."""

    logp: Tensor
    entropy: float


@dataclass
class _Encoded:
    """One prompt: tensors of a single row without padding, and what its projector is given (None: it makes that from ``tensors``)."""

    tensors: dict[str, Tensor]
    features: Tensor | None

    @property
    def nbytes(self) -> int:
        held = [*self.tensors.values(), *([] if self.features is None else [self.features])]
        return sum(t.numel() * t.element_size() for t in held)


class Turns:
    """Turns as what a network is called with. ``render``: the text of an observation."""

    def __init__(
        self, learner: Learner, pictures: FramePictures, render: Callable[[Observation], str], cache_bytes: float
    ) -> None:
        self.learner, self._pictures, self._render, self._room = learner, pictures, render, cache_bytes
        self.loaded = learner.loaded
        self.writer = Writer(learner.loaded)
        self._keeps = can_keep(learner.loaded)
        self._kept: dict[Hashable, _Encoded] = {}
        self._images: dict[Shown, Any] = {}

    def batch(self, rows: Sequence[tuple[Situation, Tokens]]) -> tuple[Inputs, Tensor]:
        """Prompts, each with the beginning of its answer, padded on the right, and bool (B, S): the last position of the prompt and
        those of the beginning, at which the answer's tokens are predicted."""
        if self._keeps:
            encoded = [self._encoded(situation) for situation, _ in rows]
            tensors = _joined([e.tensors for e in encoded])
            features = torch.stack([e.features for e in encoded if e.features is not None])
        else:
            tensors, features = self._tensors([situation for situation, _ in rows]), None
        last = ends(tensors["attention_mask"]).int().argmax(1)
        tensors = _continued(tensors, [tokens for _, tokens in rows])
        places = torch.arange(tensors["input_ids"].shape[1])
        fed = torch.tensor([len(tokens) for _, tokens in rows])
        asked = (places >= last[:, None]) & (places <= (last + fed)[:, None])
        names = [situation.prompt_id for situation, _ in rows]
        inputs = Inputs(tensors, tensors["input_ids"], features, names, list(range(len(rows))))
        placed = inputs.to(self.loaded.device, self.learner.dtype)
        return placed, asked.to(self.loaded.device)

    def question(self, situation: Situation) -> Question:
        """Picture and text of a turn. Raises ``DataError`` for a picture that cannot be shown."""
        place = place_of(situation.case, situation.state)
        image = self._images.get(place)
        if image is None:
            image = self._pictures.images([place])[place]
            if isinstance(image, UnreadableImage):
                raise DataError(f"{situation.prompt_id}: {image.message}")
            size = image.width * image.height * 3
            if not self._keeps and size <= self._room:
                self._images[place], self._room = image, self._room - size
        return Question([image], self._render(situation.case.env.observation(situation.state)))

    def _tensors(self, situations: Sequence[Situation]) -> dict[str, Tensor]:
        questions = [self.question(situation) for situation in situations]
        texts = [self.writer.prompt(question.record()) for question in questions]
        found = self.writer.tensors(texts, [question.images for question in questions], side="right")
        self._check_room(situations, int(found["input_ids"].shape[1]))
        return found

    def _check_room(self, situations: Sequence[Situation], length: int) -> None:
        room = getattr(self.loaded.network.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and length > room:
            names = ", ".join(situation.prompt_id for situation in situations[:3])
            raise DataError(f"{names}: a prompt of {length} tokens, {self.loaded.name} holds {room}")

    def _encoded(self, situation: Situation) -> _Encoded:
        key = key_of(situation)
        found = self._kept.get(key)
        if found is None:
            tensors = self._tensors([situation])
            pixels = tensors.pop("pixel_values")
            found = _Encoded(tensors, projector_inputs(self.loaded, pixels)[0])
            if found.nbytes <= self._room:
                self._kept[key], self._room = found, self._room - found.nbytes
        return found


def key_of(situation: Situation) -> Hashable:
    """The same for turns that show the same."""
    case = situation.case
    return case.source_id, case.record.scenario, case.record.sample_id, case.split, case.env.state_key(situation.state)


def _joined(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Single rows (1, S) as one batch, zeros on the right."""
    width = max(row["input_ids"].shape[1] for row in rows)
    pad = torch.nn.functional.pad
    return {
        name: torch.cat([pad(row[name], (0, width - row[name].shape[1])) for row in rows])
        for name in rows[0] if name in _PER_TOKEN
    }  # fmt: skip


def _continued(tensors: dict[str, Tensor], fed: Sequence[Tokens]) -> dict[str, Tensor]:
    """The batch with each row's tokens after its end."""
    longest = max(map(len, fed))
    if not longest:
        return tensors
    pad = torch.nn.functional.pad
    grown = {name: pad(t, (0, longest)) if name in _PER_TOKEN else t for name, t in tensors.items()}
    starts = tensors["attention_mask"].sum(1).tolist()
    for row, (start, tokens) in enumerate(zip(starts, fed, strict=True)):
        grown["input_ids"][row, start : start + len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        grown["attention_mask"][row, start : start + len(tokens)] = 1
    return grown


# --- likelihood ------------------------------------------------------------------------------------------------------


class Policy:
    """The network as a distribution over answers, at a temperature."""

    def __init__(self, turns: Turns, temperature: float) -> None:
        self.turns, self.temperature = turns, temperature
        self._parts, self._network = turns.learner.parts, turns.learner.network
        self._never = torch.tensor(turns.writer.pictures, dtype=torch.int64, device=turns.loaded.device)

    def states(self, rows: Sequence[tuple[Situation, Tokens]]) -> Tensor:
        """Hidden states (K, D) of which the tokens of answers are predicted, row by row, in the caller's gradient mode."""
        inputs, asked = self.turns.batch(rows)
        given = arguments(self._parts, inputs)
        found: Tensor = self._network.base_model(**given, use_cache=False, return_dict=True).last_hidden_state
        return found[asked]

    def log_probs(self, states: Tensor) -> Tensor:
        """Log-probabilities (K, V) of states (K, D), float32; the signs of pictures are no answer."""
        logits = logits_of(self._parts.lm_head, self._parts.config, states).float() / self.temperature
        log_p: Tensor = logits.index_fill(1, self._never, -torch.inf).log_softmax(-1)
        return log_p

    def likelihoods(self, drawn: Sequence[tuple[Situation, Tokens]]) -> Likelihoods:
        """Of answers in their turns, in the caller's gradient mode. Answers that share turn and all but their last token share a row."""
        rows: dict[Hashable, int] = {}
        listed: list[tuple[Situation, Tokens]] = []
        for situation, tokens in drawn:
            key = key_of(situation), tokens[:-1]
            if key not in rows:
                rows[key] = len(listed)
                listed.append((situation, tokens[:-1]))
        starts = torch.tensor([0, *(len(fed) + 1 for _, fed in listed)]).cumsum(0).tolist()
        at = [starts[rows[key_of(s), tokens[:-1]]] + n for s, tokens in drawn for n in range(len(tokens))]
        wanted = [token for _, tokens in drawn for token in tokens]
        return self._chosen(self.states(listed), at, wanted)

    def _chosen(self, states: Tensor, at: Sequence[int], wanted: Sequence[int]) -> Likelihoods:
        """Of token ``wanted[m]`` at state ``at[m]``."""
        columns = _columns(at)
        table = torch.zeros(len(states), 1 + max(columns), dtype=torch.int64)
        table[at, columns] = torch.tensor(wanted)
        told = by_chunks(self._told, rows_at_once(self._parts), states, table.to(states.device))
        return Likelihoods(told[at, columns], float(told[:, -1].detach().mean()))

    def _told(self, states: Tensor, table: Tensor) -> Tensor:
        """Log-probability of each token of ``table`` (K, W), then the entropy: (K, W + 1)."""
        log_p = self.log_probs(states)
        return torch.cat([log_p.gather(1, table), entropy(log_p.detach())[:, None]], 1)


def _columns(rows: Sequence[int]) -> list[int]:
    """How often each row came before: the column of a table in which each place is filled once."""
    seen: Counter[int] = Counter()
    found = []
    for row in rows:
        found.append(seen[row])
        seen[row] += 1
    return found


def entropy(log_p: Tensor) -> Tensor:
    """Nats of each row: (K, V) -> (K,)."""
    found: Tensor = torch.special.entr(log_p.exp()).sum(-1)
    return found


# --- drawing ---------------------------------------------------------------------------------------------------------


class FirstToken:
    """Answers of one token from one forward pass over each distinct prompt; the token stands for the option whose reply begins so."""

    def __init__(self, policy: Policy, form: str, seed: int) -> None:
        self._policy, self._form, self._seed = policy, form, seed
        self._texts: dict[str, int] = {}
        self._letters: dict[int, list[int]] = {}

    def __call__(self, situations: Sequence[Situation], *seed: object) -> tuple[list[Answer], Likelihoods]:
        """One answer a turn, drawn by ``seed``; their likelihoods carry the gradient where the caller's mode has one."""
        keys = [key_of(situation) for situation in situations]
        distinct = dict(zip(keys, situations, strict=True))
        row_of = {key: row for row, key in enumerate(distinct)}
        log_p = self._policy.log_probs(self._policy.states([(s, ()) for s in distinct.values()]))
        rows = torch.tensor([row_of[key] for key in keys])
        tokens = self._drawn(log_p, rows, seed)
        answers = [
            self._answer(situation, token, number, seed)
            for number, (situation, token) in enumerate(zip(situations, tokens.tolist(), strict=True))
        ]
        chosen = log_p[rows.to(log_p.device), tokens.to(log_p.device)]
        return answers, Likelihoods(chosen, float(entropy(log_p.detach()).mean()))

    def _drawn(self, log_p: Tensor, rows: Tensor, seed: Sequence[object]) -> Tensor:
        """Tokens of the answers, by inverting the cumulative distribution on the CPU, in float64: the same on every device."""
        sums = log_p.detach().double().cpu().exp().cumsum(1)
        generator = torch.Generator().manual_seed(_number(self._seed, *seed))
        columns = _columns(rows.tolist())
        points = torch.rand(len(sums), 1 + max(columns), generator=generator, dtype=torch.float64) * sums[:, -1:]
        found: Tensor = torch.searchsorted(sums, points, right=True)[rows, torch.tensor(columns)]
        return found.clamp(max=log_p.shape[1] - 1)

    def _answer(self, situation: Situation, token: int, number: int, seed: Sequence[object]) -> Answer:
        option = option_of(token, self.choices(situation), self._seed, *seed, number)
        return Answer((token,), str(self._policy.turns.loaded.tokenizer.decode([token])), option)

    def choices(self, situation: Situation) -> Choices:
        """Options of a turn by the token with which their replies begin."""
        shown = situation.case.env.shown(situation.state)
        writer = self._policy.turns.writer
        if self._form == "letter":
            if len(shown) not in self._letters:
                self._letters[len(shown)] = letter_tokens(writer, len(shown))
            return choices(self._letters[len(shown)])
        for text in {option.text for option in shown} - self._texts.keys():
            (self._texts[text],) = first_tokens(writer, [text])
        return choices([self._texts[option.text] for option in shown])


class Generated:
    """Sampled texts, token by token, at the policy's temperature; options are matched as the environment does."""

    def __init__(self, policy: Policy, max_new_tokens: int, seed: int) -> None:
        self._policy, self._most, self._seed = policy, max_new_tokens, seed
        self._ends = sorted(policy.turns.writer.ends.values())

    def __call__(self, situations: Sequence[Situation], *seed: object) -> tuple[list[Answer], Likelihoods]:
        """One answer a turn, drawn by ``seed``; likelihoods are computed anew, in the caller's gradient mode."""
        turns, loaded = self._policy.turns, self._policy.turns.loaded
        inputs = prompts(turns.writer, loaded, [turns.question(situation) for situation in situations])
        torch.manual_seed(_number(self._seed, *seed))
        with torch.no_grad(), _plain(loaded.network):
            written = loaded.network.generate(**inputs, generation_config=self._settings())
        rows = written[:, inputs["input_ids"].shape[1] :].tolist()
        answers = [self._answer(row) for row in rows]
        pairs = [(situation, answer.tokens) for situation, answer in zip(situations, answers, strict=True)]
        return answers, self._policy.likelihoods(pairs)

    def _answer(self, row: list[int]) -> Answer:
        """Up to the token that ends it, that one included."""
        stop = next((n for n, token in enumerate(row) if token in self._ends), len(row) - 1)
        tokens = tuple(row[: stop + 1])
        text = str(self._policy.turns.loaded.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        return Answer(tokens, text, text)

    def _settings(self) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self._most, do_sample=True, temperature=self._policy.temperature, top_k=0, top_p=1.0,
            eos_token_id=self._ends, pad_token_id=min(self._ends, default=0), suppress_tokens=self._policy.turns.writer.pictures,
        )  # fmt: skip


@contextmanager
def _plain(network: Any) -> Iterator[None]:
    """Sets aside what the model's folder says of generation: it would fill in all that ours leaves open (penalties, least
    probabilities), and answers would not be drawn from the policy whose likelihoods are taken."""
    own = network.generation_config
    network.generation_config = type(own)()
    try:
        yield
    finally:
        network.generation_config = own


def _number(*parts: object) -> int:
    from runner.nodes.finetuning.drawing import stream

    return int(stream(int(str(parts[0])), *parts[1:]).integers(1 << 62))
