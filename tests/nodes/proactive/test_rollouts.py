"""Answers and their likelihoods against the network asked plainly, and drawing against the distribution it draws from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.artifacts.proactive import ProactiveSamples
from runner.errors import DataError
from runner.models.lvlm.batches import Record, Writer
from runner.models.lvlm.loading import read
from runner.nodes.finetuning.learner import prepare
from runner.nodes.finetuning.specs import Lora, Optim, Recipe
from runner.nodes.proactive.pictures import FramePictures
from runner.nodes.proactive.rendering import render
from runner.nodes.proactive.returns import Situation
from runner.nodes.proactive.rollouts import FirstToken, Generated, Policy, Turns
from runner.nodes.proactive.samples import cases_of
from runner.nodes.proactive.warming import situations
from tests.chat.tiny_vlm import make_tiny_vlm
from tests.nodes.proactive import grpo_toy

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> ProactiveSamples:
    return grpo_toy.samples(tmp_path_factory.mktemp("squares"), 8)


@pytest.fixture(scope="module", params=["toy", "qwen2_vl"])
def policy(
    request: pytest.FixtureRequest, squares: ProactiveSamples, tmp_path_factory: pytest.TempPathFactory
) -> Policy:
    folder = tmp_path_factory.mktemp("m") / request.param
    if request.param == "toy":
        grpo_toy.make_model(folder, grpo_toy.prompts(squares))
    else:
        make_tiny_vlm(folder, request.param)
    recipe = Recipe(train="lora", projector=False, lora=Lora(r=2), optim=Optim(precision="fp32"))
    learner = prepare(read(folder, dtype="float32"), recipe)
    with torch.no_grad():
        for name, parameter in learner.trained.items():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return Policy(Turns(learner, FramePictures(squares.corpus), render, 1e8), TEMPERATURE)


@pytest.fixture(scope="module")
def turns(squares: ProactiveSamples) -> list[Situation]:
    return situations(cases_of(squares, split="train"), "all")


def plainly(policy: Policy, situation: Situation, tokens: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities of the tokens after the prompt, the whole network once, nothing kept or padded."""
    loaded = policy.turns.loaded
    question = policy.turns.question(situation)
    writer = Writer(loaded)
    prompt = writer.prompt(Record("x", question.images, [("user", question.text)]))
    inputs = writer.tensors([prompt], [question.images], side="right")
    more = torch.tensor([tokens])
    for name, value in (
        ("input_ids", more),
        ("attention_mask", torch.ones_like(more)),
        ("mm_token_type_ids", 0 * more),
    ):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], value], 1)
    with torch.no_grad():
        logits = loaded.network(**inputs).logits[0, -len(tokens) - 1 : -1]
    logits[:, writer.pictures] = -torch.inf
    return (logits / TEMPERATURE).log_softmax(-1).gather(1, more.T)[:, 0]


def test_likelihoods_are_the_networks_own(policy: Policy, turns: list[Situation]) -> None:
    drawn = [
        (turns[0], (40, 41, 42)),
        (turns[3], (50,)),
        (turns[0], (43,)),
        (turns[0], (40, 41, 60)),
        (turns[5], (44, 9)),
    ]
    with torch.no_grad():
        found = policy.likelihoods(drawn).logp
    expected = torch.cat([plainly(policy, *one) for one in drawn])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gradients_flow_to_the_adapter_alone(policy: Policy, turns: list[Situation]) -> None:
    told = policy.likelihoods([(turns[0], (40, 41)), (turns[1], (40,))])
    told.logp.sum().backward()  # type: ignore[no-untyped-call]
    network = policy.turns.learner.network
    moved = {name for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())}
    network.zero_grad()
    assert moved
    assert all("lora_" in name for name in moved)


@pytest.mark.parametrize("form", ["letter", "text"])
def test_tokens_are_drawn_as_likely_as_they_are(policy: Policy, turns: list[Situation], form: str) -> None:
    number = 3000
    with torch.no_grad():
        answers, told = FirstToken(policy, form, 0)([turns[0]] * number + [turns[1]], "step")
        again, _ = FirstToken(policy, form, 0)([turns[0]] * number + [turns[1]], "step")
        log_p = policy.log_probs(policy.states([(turns[0], ())]))[0]
    assert answers == again
    counts = Counter(answer.tokens[0] for answer in answers[:-1])
    for token, p in enumerate(log_p.exp().tolist()):
        if p > 0.02:
            assert abs(counts[token] / number - p) < 5 * (p * (1 - p) / number) ** 0.5
    expected = torch.stack([log_p[answer.tokens[0]] for answer in answers[:-1]])
    torch.testing.assert_close(told.logp[:-1], expected, rtol=1e-4, atol=1e-4)


def test_an_answer_means_the_option_whose_reply_begins_with_it(policy: Policy, turns: list[Situation]) -> None:
    writer, shown = policy.turns.writer, turns[0].case.env.shown(turns[0].state)
    for form, replies in (("letter", "ABCDEF"), ("text", [option.text for option in shown])):
        answer = FirstToken(policy, form, 0)
        known = answer.choices(turns[0])
        assert sorted(option for some in known.values() for option in some) == list(range(len(shown)))
        for option, reply in enumerate(replies):
            text, spans = writer.conversation(Record("x", [], [("user", "Say."), ("assistant", reply)]))
            ids, at = writer.words(text)
            begins = next(i for i, (start, _) in zip(ids, at, strict=True) if start == spans[0].start)
            assert option in known[begins]


def test_one_generated_token_is_a_first_token(policy: Policy, turns: list[Situation]) -> None:
    with torch.no_grad(), torch.random.fork_rng():
        answers, told = Generated(policy, 1, 0)([turns[0], turns[1]] * 3, "step")
        same, _ = Generated(policy, 1, 0)([turns[0], turns[1]] * 3, "step")
        log_p = policy.log_probs(policy.states([(turns[0], ()), (turns[1], ())]))
    assert answers == same
    expected = torch.stack([log_p[n % 2, answer.tokens[0]] for n, answer in enumerate(answers)])
    torch.testing.assert_close(told.logp, expected, rtol=1e-4, atol=1e-4)


def test_answers_are_drawn_from_the_policy_whatever_the_model_says_of_generation(
    policy: Policy, turns: list[Situation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published folders name penalties and cuts of their own; likelihoods know none of them."""
    some = [turns[0], turns[1]] * 4
    with torch.no_grad(), torch.random.fork_rng():
        plain, _ = Generated(policy, 6, 0)(some, "step")
        own = policy.turns.loaded.network.generation_config
        for name, value in {"repetition_penalty": 3.0, "min_p": 0.9, "no_repeat_ngram_size": 1}.items():
            monkeypatch.setattr(own, name, value)
        again, _ = Generated(policy, 6, 0)(some, "step")
    assert again == plain
    assert policy.turns.loaded.network.generation_config is own


def test_generated_answers_end_with_their_end(policy: Policy, turns: list[Situation]) -> None:
    with torch.no_grad(), torch.random.fork_rng():
        answers, told = Generated(policy, 12, 1)([turns[0]] * 12, "step")
    ends = set(policy.turns.writer.ends.values())
    assert len(told.logp) == sum(len(answer.tokens) for answer in answers)
    for answer in answers:
        assert not ends & set(answer.tokens[:-1])
        assert len(answer.tokens) == 12 or answer.tokens[-1] in ends


def test_a_picture_that_cannot_be_shown_is_named(
    squares: ProactiveSamples, policy: Policy, turns: list[Situation], tmp_path: Path
) -> None:
    empty: Any = FramePictures([{"folder": str(tmp_path), "name": "squares"}])
    fresh = Turns(policy.turns.learner, empty, render, 1e8)
    with pytest.raises(DataError, match="QD/0/0"):
        fresh.batch([(turns[0], ())])
