"""The training loop of GRPO: draw answers, weigh them within their groups, follow the gradient.

Every step is a function of (seed, step, weights), so that a killed run ends in the same bits. With answers of one token, single turns and
one update a batch, the forward pass that drew the answers carries the gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from runner.errors import StepError
from runner.nodes.finetuning.learner import Learner
from runner.nodes.finetuning.specs import Optim
from runner.nodes.finetuning.trainer import enough_memory, generators, learning_rate, parameter_groups, write_state
from runner.nodes.proactive.grpo import advantages, clipped, divergence, grpo_loss, ratios
from runner.nodes.proactive.grpo_specs import GrpoSpec, RewardSpec
from runner.nodes.proactive.returns import Situation, Worth, episode_return, worth
from runner.nodes.proactive.rollouts import Answer, FirstToken, Generated, Likelihoods, Policy

SAVING = 0.05
"""Share of the time that may go into saving."""
KEPT_STEPS, KEPT_ROLLOUTS = 30, 64
"""Steps of which answers are written down, and answers of each."""
ADVICE = "Raise grpo.accumulation, set grpo.checkpointing: true, or lower grpo.prompts_per_step."


class Played(NamedTuple):
    """One turn of an episode."""

    situation: Situation
    answer: Answer
    worth: Worth


@dataclass
class Rollout:
    """One episode; of single turns, one answer."""

    turns: list[Played] = field(default_factory=list)
    value: float = 0.0

    @property
    def tokens(self) -> int:
        """Of all its answers."""
        return sum(len(turn.answer.tokens) for turn in self.turns)


class Draw(NamedTuple):
    """Rollouts prompt by prompt, G of each, and what the pass that drew them said."""

    rollouts: list[Rollout]
    told: list[Likelihoods]


def play(
    starts: Sequence[Situation], answer: FirstToken | Generated, reward: RewardSpec, *, group: int, multi: bool, seed: object,
) -> Draw:  # fmt: skip
    """``group`` episodes from each start, all of them turn by turn together; single turns end after the first."""
    rollouts = [Rollout() for _ in starts for _ in range(group)]
    live = [
        (rollout, start) for rollout, start in zip(rollouts, (s for s in starts for _ in range(group)), strict=True)
    ]
    told, number = [], 0
    while live:
        answers, likelihoods = answer([situation for _, situation in live], seed, number)
        told.append(likelihoods)
        following = []
        for (rollout, situation), given in zip(live, answers, strict=True):
            state = _turn(rollout, situation, given, reward)
            if multi and state is not None:
                following.append((rollout, Situation(situation.case, state)))
        live, number = following, number + 1
    return Draw(rollouts, told)


def _turn(rollout: Rollout, situation: Situation, answer: Answer, reward: RewardSpec) -> Any:
    """Write a turn down; the state after it."""
    env, state = situation.case.env, situation.state
    outcome = env.advance(state, answer.option)
    found = worth(env, state, env.shown(state), outcome.match.index, reward)
    rollout.turns.append(Played(situation, answer, found))
    rollout.value = episode_return(found.reward, len(rollout.turns), reward)
    return outcome.next_state


class Batch(NamedTuple):
    """Rollouts of some prompts as an episode a row: ``old`` log-probabilities (N, T), or None where nothing has moved since; ``gains`` (N,)."""

    rollouts: Sequence[Rollout]
    gains: Tensor
    old: Tensor | None


def grid(flat: Tensor, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
    """Token values (M,), episode after episode, as rows (N, T), and the bool mask of what belongs to them."""
    lengths = torch.tensor([rollout.tokens for rollout in rollouts], device=flat.device)
    mask = torch.arange(int(lengths.max()), device=flat.device) < lengths[:, None]
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat), mask


@dataclass
class PolicyLog:
    """``rows``: of ``grpo_steps``, ``rollouts``: of ``grpo_rollouts``, both without the model."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class _Sums:
    """What the updates of a step add up to."""

    loss: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0
    tokens: int = 0
    norms: list[float] = field(default_factory=list)


class PolicyTrainer:
    """One training. ``course``: the prompts of each step; ``state``: where it is saved, and taken up again if it is there."""

    def __init__(
        self, learner: Learner, policy: Policy, answer: FirstToken | Generated, course: Sequence[Sequence[Situation]],
        spec: GrpoSpec, reward: RewardSpec, optim: Optim, *, seed: int, state: Path,
    ) -> None:  # fmt: skip
        self.learner, self.policy, self.answer, self.course = learner, policy, answer, course
        self.spec, self.reward, self.optim, self.seed, self.state = spec, reward, optim, seed, state
        self.optimiser = torch.optim.AdamW(parameter_groups(learner, optim))
        self.done, self.log = 0, PolicyLog()
        self._noted = {*np.linspace(0, len(course) - 1, min(len(course), KEPT_STEPS)).round().astype(int).tolist()}
        if state.is_file():
            self._resume()

    @property
    def fused(self) -> bool:
        """Whether the pass that draws also carries the gradient."""
        s = self.spec
        apart = s.scale_rewards == "batch" and s.accumulation > 1
        return isinstance(self.answer, FirstToken) and s.turns == "single" and s.updates == 1 and not apart

    def run(self, on_step: Callable[[], None]) -> PolicyLog:
        """Train to the end. ``on_step()`` may raise to stop: the state is saved first."""
        saved, cost = time.monotonic(), 0.0
        device = self.learner.loaded.device
        with torch.random.fork_rng(devices=generators(device)), enough_memory("training", ADVICE):
            for step in range(self.done, len(self.course)):
                self._step(step)
                if (time.monotonic() - saved) * SAVING >= cost:
                    cost, saved = self._save()
                try:
                    on_step()
                except BaseException:
                    self._save()
                    raise
        self._save()
        return self.log

    # --- one step ----------------------------------------------------------------------------------------------------

    def _step(self, step: int) -> None:
        started, rate = time.monotonic(), learning_rate(step, len(self.course), self.optim, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["peak"]
        parts = [list(some) for some in np.array_split(np.arange(len(self.course[step])), self.spec.accumulation)]
        starts = [[self.course[step][int(i)] for i in some] for some in parts]
        sums = _Sums()
        done = (self._fused if self.fused else self._apart)(starts, step, sums)
        self.done = step + 1
        self._note(done, sums, rate * self.optim.lr, time.monotonic() - started)

    def _fused(self, parts: Sequence[Sequence[Situation]], step: int, sums: _Sums) -> list[Draw]:
        """One pass a part: its answers and its gradient."""
        self.learner.training()
        total = sum(map(len, parts)) * self.spec.rollouts_per_prompt
        done = []
        for number, starts in enumerate(parts):
            self._reseed(step, number)
            played = self._play(starts, step, number)
            (told,) = played.told
            batch = Batch(played.rollouts, self._gains(played.rollouts), None)
            self._backward(told.logp, batch, total, total, sums)
            done.append(Draw(played.rollouts, [Likelihoods(told.logp.detach(), told.entropy)]))
        self._move(step, sums)
        return done

    def _apart(self, parts: Sequence[Sequence[Situation]], step: int, sums: _Sums) -> list[Draw]:
        """Draw first, then one or more updates on what was drawn."""
        self.learner.network.eval()
        done = []
        with torch.no_grad():
            for number, starts in enumerate(parts):
                self._reseed(step, number)
                done.append(self._play(starts, step, number))
        batches = self._batches(done, step)
        total, tokens = sum(len(b.rollouts) for b in batches), sum(r.tokens for b in batches for r in b.rollouts)
        self.learner.training()
        for update in range(self.spec.updates):
            for number, batch in enumerate(batches):
                self._reseed(step, number, update)
                self._backward(self._likelihoods(batch.rollouts).logp, batch, total, tokens, sums)
            self._move(step, sums)
        return done

    def _batches(self, done: Sequence[Draw], step: int) -> list[Batch]:
        """Advantages over the whole step; with several updates, what the policy said before the first, under the dropout of that one: its
        ratios are 1."""
        gains = self._gains([rollout for played in done for rollout in played.rollouts])
        cut = torch.split(gains, [len(played.rollouts) for played in done])
        if self.spec.updates == 1:
            return [Batch(played.rollouts, some, None) for played, some in zip(done, cut, strict=True)]
        self.learner.training()
        old = []
        with torch.no_grad():
            for number, played in enumerate(done):
                self._reseed(step, number, 0)
                old.append(grid(self._likelihoods(played.rollouts).logp, played.rollouts)[0])
        return [Batch(p.rollouts, some, before) for p, some, before in zip(done, cut, old, strict=True)]

    def _play(self, starts: Sequence[Situation], step: int, part: int) -> Draw:
        return play(
            starts, self.answer, self.reward, group=self.spec.rollouts_per_prompt, multi=self.spec.turns == "multi",
            seed=f"{step}.{part}",
        )  # fmt: skip

    def _gains(self, rollouts: Sequence[Rollout]) -> Tensor:
        values = torch.tensor([rollout.value for rollout in rollouts], dtype=torch.float32)
        groups = values.view(-1, self.spec.rollouts_per_prompt)
        return advantages(groups, scale=self.spec.scale_rewards).flatten().to(self.learner.loaded.device)

    def _likelihoods(self, rollouts: Sequence[Rollout]) -> Likelihoods:
        drawn = [(turn.situation, turn.answer.tokens) for rollout in rollouts for turn in rollout.turns]
        return self.policy.likelihoods(drawn)

    def _backward(self, flat: Tensor, batch: Batch, total: int, tokens: int, sums: _Sums) -> None:
        """Add a part's share of the step's gradient; ``total`` rollouts and ``tokens`` are those of the step."""
        spec = self.spec
        logp, mask = grid(flat, batch.rollouts)
        old = logp.detach() if batch.old is None else batch.old
        ref = self._reference(batch.rollouts) if spec.beta else None
        longest = spec.max_new_tokens if isinstance(self.answer, Generated) else 1
        loss = grpo_loss(
            logp, old, batch.gains, mask, loss_type=spec.loss_type, clip=spec.clip, beta=spec.beta, ref_logp=ref, level=spec.level,
            max_completion_length=longest, window_tokens=tokens, kl_times_ratio=spec.kl_times_ratio,
        )  # fmt: skip
        share = 1.0 if spec.loss_type == "dapo" else len(batch.rollouts) / total
        (loss * share).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            cut = clipped(ratios(logp, old, mask, spec.level), batch.gains, spec.clip) & mask
            sums.loss += float(loss) * share
            sums.clipped += float(cut.sum())
            sums.kl += 0.0 if ref is None else float(divergence(logp, ref, mask).sum())
            sums.tokens += int(mask.sum())

    @torch.no_grad()
    def _reference(self, rollouts: Sequence[Rollout]) -> Tensor:
        """What the model at the start says: the adapter is off."""
        with self.learner.adapted.disable_adapter():
            return grid(self._likelihoods(rollouts).logp, rollouts)[0]

    def _move(self, step: int, sums: _Sums) -> None:
        values = list(self.learner.trained.values())
        norm = float(torch.nn.utils.clip_grad_norm_(values, self.spec.max_norm or math.inf))
        if not math.isfinite(norm):
            raise StepError(
                f"the gradient is not a finite number at training step {step + 1}",
                hint="Lower grpo.lr, or take grpo.precision: fp32.",
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        sums.norms.append(norm)

    def _reseed(self, step: int, part: int, update: int = 0) -> None:
        """Of dropout."""
        torch.manual_seed((self.seed * 1_000_003 + step * 65_537 + part * 1_009 + update) % (1 << 62))

    # --- what is written down ----------------------------------------------------------------------------------------

    def _note(self, done: Sequence[Draw], sums: _Sums, rate: float, seconds: float) -> None:
        rollouts = [rollout for played in done for rollout in played.rollouts]
        values = torch.tensor([r.value for r in rollouts], dtype=torch.float64)
        groups = values.view(-1, self.spec.rollouts_per_prompt)
        kinds = [turn.worth.kind for rollout in rollouts for turn in rollout.turns]
        lengths = [len(turn.answer.tokens) for rollout in rollouts for turn in rollout.turns]
        entropies = [told.entropy for played in done for told in played.told]
        self.log.seconds += seconds
        self.log.rows.append({
            "train_step": self.done, "reward_mean": float(values.mean()), "reward_std": float(values.std()),
            "frac_zero_std": float((groups.amax(1) == groups.amin(1)).double().mean()), **shares(kinds),
            "kl": sums.kl / sums.tokens if self.spec.beta else None, "entropy": float(np.mean(entropies)),
            "clip_frac": sums.clipped / sums.tokens, "completion_len": float(np.mean(lengths)), "lr": rate,
            "grad_norm": float(np.mean(sums.norms)), "loss": sums.loss / self.spec.updates, "seconds": seconds,
        })  # fmt: skip
        if self.done - 1 in self._noted:
            self.log.rollouts += list(self._answers(rollouts))

    def _answers(self, rollouts: Sequence[Rollout]) -> Iterator[dict[str, Any]]:
        gains = self._gains(rollouts).tolist()
        size = self.spec.rollouts_per_prompt
        for place, (rollout, gain) in enumerate(zip(rollouts, gains, strict=True)):
            if place >= KEPT_ROLLOUTS:
                return
            for turn in rollout.turns:
                yield {
                    "train_step": self.done, "prompt_id": turn.situation.prompt_id, "rollout": place % size,
                    "turn": turn.situation.state.turn + 1, "text": turn.answer.text, "reward": rollout.value, "advantage": gain,
                    "matched_kind": None if turn.worth.kind == "unreadable" else turn.worth.kind,
                }  # fmt: skip

    def _save(self) -> tuple[float, float]:
        """Seconds it took, and when it was over."""
        started = time.monotonic()
        moments = {
            n: dict(self.optimiser.state[p]) for n, p in self.learner.trained.items() if p in self.optimiser.state
        }
        content = {
            "trained": {n: p.detach() for n, p in self.learner.trained.items()}, "moments": moments, "done": self.done,
            "rows": self.log.rows, "rollouts": self.log.rollouts, "seconds": self.log.seconds,
        }  # fmt: skip
        write_state(content, self.state)
        now = time.monotonic()
        return now - started, now

    def _resume(self) -> None:
        content = torch.load(self.state, map_location="cpu", weights_only=True)
        self.learner.set_state(content["trained"])
        for name, moments in content["moments"].items():
            parameter = self.learner.trained[name]
            self.optimiser.state[parameter] = {
                kind: value if kind == "step" else value.to(parameter.device) for kind, value in moments.items()
            }
        self.done = content["done"]
        self.log = PolicyLog(content["rows"], content["rollouts"], content["seconds"])


def shares(kinds: Sequence[str]) -> dict[str, float]:
    """Shares of the kinds of answers, as ``grpo_steps`` names them; a request is one also where it helps no more."""
    named = {
        "share_ask": ("ask_valid", "ask_invalid"), "share_correct": ("category_true",), "share_wrong": ("category_false",),
        "share_abstain": ("abstain",), "share_unreadable": ("unreadable",),
    }  # fmt: skip
    return {name: sum(kind in some for kind in kinds) / len(kinds) for name, some in named.items()}
