"""What a spec may write under ``models:`` for chat, and what of it enters keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runner.errors import AssetError, DataError, EndpointError, ModelRefused
from runner.models.base import ChatModel
from runner.models.chat.prices import load_prices
from runner.models.chat.providers import LlamaCpp, OpenAI, Transformers, Vllm
from runner.models.registry import Services, load_providers
from runner.references import AssetRef, ResolvedPath


def test_the_four_providers_are_registered_and_light() -> None:
    code = (
        "import sys; from runner.models.chat import providers; "
        "print([m for m in ('torch', 'transformers', 'openai', 'httpx2', 'xllamacpp', 'llguidance', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stderr
    assert {"openai", "llamacpp", "transformers", "vllm"} <= load_providers().keys()
    assert all(load_providers()[n].kind is ChatModel for n in ("openai", "llamacpp", "transformers", "vllm"))


def test_where_and_how_fast_enters_no_key() -> None:
    one = OpenAI(model="m", base_url="http://localhost:8000/v1", concurrency=4, timeout=3, api_key_env="A")
    other = OpenAI(model="m", base_url="http://10.0.0.7:9999/v1/", concurrency=32, deadline=9, max_retries=0)
    assert one.identity() == other.identity()
    assert one.identity() != OpenAI(model="m").identity()
    assert one.identity() != OpenAI(model="n", base_url=one.base_url).identity()
    assert one.identity() != OpenAI(model="m", base_url=one.base_url, temperature=0.5).identity()


def test_files_stand_in_identities_as_references(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    config = LlamaCpp.model_validate({"provider": "llamacpp", "model": "m.gguf"}, context={"base": tmp_path})
    assert isinstance(config.identity()["model"], ResolvedPath)
    packaged = LlamaCpp.model_validate(
        {"provider": "llamacpp", "model": "asset:smollm2-135m", "threads": 2, "parallel": 1}
    )
    assert isinstance(packaged.identity()["model"], AssetRef)
    assert packaged.identity() == LlamaCpp(model="asset:smollm2-135m", context=512).identity()


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ""},
        {"model": "m", "base_url": "ftp://host/v1"},
        {"model": "m", "base_url": "localhost:8000"},
        {"model": "m", "base_url": "http://user:secret@host/v1"},
        {"model": "m", "base_url": "http://host/v1?key=secret"},
        {"model": "m", "api_key": "sk-1"},
        {"model": "m", "api_key_env": "sk-not-a-name"},
        {"model": "m", "concurrency": 0},
        {"model": "m", "timeout": -1},
        {"model": "m", "temperature": 3},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OpenAI.model_validate({"provider": "openai"} | wrong)


def test_the_key_goes_to_openai_by_default_and_elsewhere_only_when_named(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one")
    monkeypatch.setenv("OTHER", "sk-two")
    services = Services(cache=tmp_path)

    def key_of(**settings: Any) -> Any:
        client: Any = OpenAI(model="m", **settings).load(services)
        return client._sender.backend._key

    assert key_of() == "sk-one"
    assert key_of(base_url="http://localhost:1/v1") is None
    assert key_of(base_url="http://localhost:1/v1", api_key_env="OTHER") == "sk-two"
    assert key_of(base_url="http://localhost:1/v1", api_key_env="MISSING") is None
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY") as error:
        key_of()
    assert error.value.scope == "run"


def test_prices_are_found_by_model_and_asked_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("currency: USD\nmodels:\n  m: {input: 0.15, output: 6e-1}\n")
    client: Any = OpenAI(model="m", base_url="http://localhost:1/v1", prices=str(path)).load(Services(cache=tmp_path))
    assert client.settings.price.cost(1_000_000, 2_000_000) == pytest.approx(0.15 + 1.2)
    other: Any = OpenAI(model="x", base_url="http://localhost:1/v1", prices=str(path)).load(Services(cache=tmp_path))
    assert other.settings.price is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {m: {input: -1, output: 1}}", "models.m.input"),
        ("models: {m: {input: 1}}", "models.m.output"),
        ("models: {m: {input: .nan, output: 1}}", "models.m.input"),
        ("- 1", "dictionary"),
        ("models: [", "is not YAML"),
        ("models: &a {m: {input: 1, output: 1}}\nx: *a", "aliases"),
        ("#" * 1_000_001, "larger"),
    ],
)
def test_wrong_price_files_are_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        load_prices(path)
    assert said in str(error.value) and "prices.yaml" in str(error.value)


def test_what_is_no_model_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    pickled, services = tmp_path / "model.gguf", Services(cache=tmp_path)
    pickled.write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(ModelRefused, match="no GGUF file"):
        LlamaCpp(model=str(pickled)).load(services)
    with pytest.raises(ModelRefused, match="cannot be read"):
        LlamaCpp(model=str(tmp_path)).load(services)
    with pytest.raises(ModelRefused, match="no GGUF file"):
        Transformers(path=str(pickled)).load(services)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ModelRefused, match=r"no config\.json"):
        Transformers(path=str(folder)).load(services)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(ModelRefused, match="no safetensors weights"):
        Transformers(path=str(folder)).load(services)


@pytest.mark.parametrize("name", ["../other/model.gguf", "/etc/model.gguf", "model.bin"])
def test_a_gguf_file_is_a_name_inside_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Transformers(path=str(tmp_path), gguf_file=name)


def test_missing_vllm_says_how_to_get_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(AssetError, match=r"vlm-runner\[vllm\]"):
        Vllm(model="Qwen/Qwen3-8B").load(Services(cache=tmp_path))


def test_vllm_takes_a_folder_or_a_hub_name(tmp_path: Path) -> None:
    assert Vllm(model="Qwen/Qwen3-8B").model == "Qwen/Qwen3-8B"
    assert isinstance(Vllm(model=str(tmp_path)).model, ResolvedPath)
    with pytest.raises(ValidationError):
        Vllm(model="./no-such-folder")
    with pytest.raises(ValidationError):
        Vllm.model_validate({"provider": "vllm", "model": "a/b", "trust_remote_code": True})
