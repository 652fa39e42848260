"""The adapter for gymnasium, where that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.context import local_context
from runner.errors import UsageError
from runner.nodes.proactive.data_steps import load
from runner.nodes.proactive.samples import cases_of
from tests.nodes.proactive.published_folder import write_release

gymnasium = pytest.importorskip("gymnasium")


def test_episodes_in_the_shape_of_gymnasium(tmp_path: Path) -> None:
    from gymnasium.utils.env_checker import check_env

    from runner.nodes.proactive.gymnasium_env import register

    samples = load(local_context(tmp_path), root=str(write_release(tmp_path / "r", scenarios=["QD"])))
    cases = cases_of(samples)
    assert "ProactiveMVPN-v0" in register() and register() == register()
    env = gymnasium.make("ProactiveQD-v0", cases=cases, corpus=samples.corpus, side=32)
    check_env(env.unwrapped, skip_render_check=True)
    seen, info = env.reset(seed=3, options={"sample_id": 2})
    assert env.observation_space.contains(seen) and info["sample_id"] == "2"
    assert seen["image"].shape == (32, 32, 3) and "A. I cannot answer." in seen["text"]
    assert info["action_mask"].tolist() == [1] * 6
    seen, reward, terminated, truncated, info = env.step(1)
    assert (reward, terminated, truncated, info["action"]) == (0.0, False, False, "next")
    _, reward, terminated, _, info = env.step(4)
    assert (reward, terminated, info["stop_reason"]) == (1.0, True, "success")
    with pytest.raises(UsageError, match="no sample"):
        env.reset(options={"sample_id": "x"})
