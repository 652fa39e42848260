"""Mixtures asked of a server by name: the same answers as in this process, over the wire that vLLM speaks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from runner.context import local_context
from runner.errors import DataError, EndpointError, ModelRefused
from runner.models.base import ChatModel
from runner.models.chat.providers import OpenAI
from runner.models.registry import Services
from runner.nodes.merging.score_steps import score
from runner.nodes.merging.specs import MergeSpec
from tests.nodes.merging.adapter_server import KEY, AdapterServer, serving
from tests.nodes.merging.tiny_seeing import base_and_experts, experts_of, handle, items, mixtures, pictures, talks

ROWS = [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]
ASK, LOAD, UNLOAD = "/v1/chat/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("served")
    base, paths = base_and_experts(folder, projector=False)
    corpus = pictures(folder / "pictures")
    made = experts_of(local_context(folder / "ctx"), base, paths)
    return {"folder": base, "corpus": corpus, "experts": made, "items": items(corpus)}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)


def client(server: AdapterServer, cache: Path) -> ChatModel:
    cache.mkdir(exist_ok=True)
    config = OpenAI(model="base", base_url=server.base_url, api_key_env="TINY_KEY", max_retries=0)
    return config.load(Services(cache=cache))


def scored(folder: Path, world: dict[str, Any], **settings: Any) -> Any:
    given: dict[str, Any] = {
        "base": handle(world["folder"]), "experts": world["experts"], "mixtures": mixtures(ROWS), "items": world["items"],
        "batch_size": 8, "max_new_tokens": 4,
    }  # fmt: skip
    return score(local_context(folder), **(given | settings))


def served(folder: Path, world: dict[str, Any], server: AdapterServer, **settings: Any) -> Any:
    return scored(folder, world, execution="served_lora", server=client(server, folder.parent / "cache"), **settings)


def test_a_server_gives_the_scores_of_this_process(world: dict[str, Any], tmp_path: Path) -> None:
    here = scored(tmp_path / "here", world)
    with serving(world["folder"]) as server:
        found = served(tmp_path / "a", world, server)
        # Every item of a run that begins anew is answered from the reply cache, though names of adapters come again.
        asked = len(server.asked(ASK))
        again = served(tmp_path / "b", world, server)
        assert len(server.asked(ASK)) == asked
    assert found.items.to_pylist() == here.items.to_pylist() == again.items.to_pylist()
    assert [row["value"] for row in found.scores.to_pylist()] == [row["value"] for row in here.scores.to_pylist()]
    assert not server.adapters
    loaded, left = ([body["lora_name"] for body in server.asked(path)] for path in (LOAD, UNLOAD))
    assert len(set(loaded)) == 2 and loaded == left
    questions = [body for body in server.asked(ASK) if body["model"] != "base"]
    assert sorted({body["model"] for body in questions}) == sorted(set(loaded)) and len(questions) == 10
    merges = found.merges.to_pylist()
    assert {row["execution"] for row in merges} == {"served_lora"} and all(row["bytes_written"] > 0 for row in merges)
    # An expert without weight takes no rank: the second mixture is the second expert alone.
    assert merges[1]["bytes_written"] < merges[0]["bytes_written"]
    assert not list((tmp_path / "a" / "scratch" / "adapters").iterdir())


def test_connections_end_with_the_step(world: dict[str, Any], tmp_path: Path) -> None:
    with serving(world["folder"]) as server:
        model = client(server, tmp_path / "cache")
        clients: list[Any] = []
        backend: Any = model._sender.backend  # type: ignore[attr-defined]
        opened = backend._clients._make
        backend._clients._make = lambda: clients.append(opened()) or clients[-1]
        scored(tmp_path / "a", world, execution="served_lora", server=model)
        assert clients and all(one.is_closed() for one in clients)


def test_a_rounded_merge_cannot_be_served(world: dict[str, Any], tmp_path: Path) -> None:
    with serving(world["folder"]) as server, pytest.raises(ModelRefused, match=r"cannot keep merge\.dtype float16"):
        served(tmp_path / "a", world, server, merge=MergeSpec(dtype="float16"))


def test_without_loading_the_step_says_how_to_start_the_server(world: dict[str, Any], tmp_path: Path) -> None:
    with (
        serving(world["folder"], updating=False) as server,
        pytest.raises(ModelRefused, match="lacks 2 of 2") as refused,
    ):
        served(tmp_path / "a", world, server, load=False)
    command = refused.value.hint or ""
    assert "--max-lora-rank 16" in command  # 3 + 4 + 5 = 12
    named = re.findall(r"(mixture-\w+)=(\S+)", command)
    with serving(world["folder"], updating=False, static={name: Path(path) for name, path in named}) as server:
        found = served(tmp_path / "a", world, server, load=False)
        assert not server.asked(LOAD) and not server.asked(UNLOAD)
    assert {row["status"] for row in found.scores.to_pylist()} == {"done"}


def test_a_server_that_takes_no_adapters_ends_the_step(world: dict[str, Any], tmp_path: Path) -> None:
    with (
        serving(world["folder"], updating=False) as server,
        pytest.raises(EndpointError, match="did not load") as failed,
    ):
        served(tmp_path / "a", world, server)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in (failed.value.hint or "") and KEY not in str(failed.value)


def test_a_refused_question_costs_its_mixtures_score_only(world: dict[str, Any], tmp_path: Path) -> None:
    with serving(world["folder"]) as server:
        found = served(tmp_path / "a", world, server, mixtures=mixtures(ROWS[:1]))
        server.broken = {body["messages"][0]["content"][-1]["text"] for body in server.asked(ASK)[-1:]}
        rows = served(tmp_path / "b", world, server, mixtures=mixtures([ROWS[0], [0.2, 0.2, 0.6]])).scores.to_pylist()
    assert [row["status"] for row in rows] == ["done", "failed"] and rows[1]["n"] == 4
    assert rows[0]["value"] == found.scores.to_pylist()[0]["value"]


def test_what_cannot_be_served_is_refused_before_work(world: dict[str, Any], tmp_path: Path) -> None:
    with serving(world["folder"]) as server:
        with pytest.raises(DataError, match="loss cannot be asked"):
            served(tmp_path / "a", world, server, data=talks(world["corpus"]))
        base, paths = base_and_experts(tmp_path / "other")
        whole = experts_of(local_context(tmp_path / "ctx"), base, paths)
        with pytest.raises(ModelRefused, match="carries whole tensors"):
            served(tmp_path / "b", world, server, base=handle(base), experts=whole)
        with pytest.raises(DataError, match="belong together"):
            scored(tmp_path / "c", world, server=client(server, tmp_path / "cache"))
        with pytest.raises(ModelRefused, match="this is ties"):
            served(tmp_path / "d", world, server, merge=MergeSpec(method="ties", density=0.5))
        assert not server.asked(LOAD)
    with pytest.raises(DataError, match="belong together"):
        scored(tmp_path / "e", world, execution="served_lora")
