"""Experts of domains and models of mixtures: one recipe, exact shares, resumed model by model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from results.tables import arrow_table
from runner.artifacts import Conversations, Experts, Mixtures
from runner.context import StepContext, local_context
from runner.errors import DataError, Interrupted
from runner.models.lvlm.loading import Lvlm, read
from runner.nodes.finetuning.experts import folder_name
from runner.nodes.finetuning.specs import Lora, Optim
from runner.nodes.finetuning.steps import train_experts, train_mixtures

QUICK: dict[str, Any] = {
    "optim": Optim(lr=3e-3, steps=2, batch_size=4, precision="fp32"), "lora": Lora(r=2, alpha=4), "seed": 5,
}  # fmt: skip


def stopping(ctx: StepContext, after: int) -> StepContext:
    class Stop:
        calls = 0

        def check(self) -> None:
            self.calls += 1
            if self.calls == after:
                raise Interrupted("stopped")

    ctx.stop = Stop()
    return ctx


@pytest.fixture(scope="module")
def experts(
    tiny_folder: Path, squares: Conversations, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Experts, Path]:
    """Stopped once, in the second expert, and taken up again."""
    folder, base = tmp_path_factory.mktemp("experts"), Lvlm(tiny_folder, dtype="float32")
    with pytest.raises(Interrupted):  # 2 + 2 checks (records, steps) an expert
        train_experts(stopping(local_context(folder), 7), base=base, data=squares, **QUICK)
    done = sorted(path.name for path in (folder / "scratch" / "models").iterdir())
    assert done == ["000-colour"]
    return train_experts(local_context(folder), base=base, data=squares, **QUICK), folder


def test_each_domain_has_its_expert(experts: tuple[Experts, Path], tiny_folder: Path) -> None:
    found, _ = experts
    assert [(m["name"], m["kind"], m["weights"]) for m in found.models] == [
        ("colour", "lora", {"colour": 1.0, "words": 0.0}), ("words", "lora", {"colour": 0.0, "words": 1.0}),
    ]  # fmt: skip
    assert [m["summary"]["drawn"] for m in found.models] == [{"colour": 8}, {"words": 8}]
    assert [(row["model"], row["train_step"]) for row in found.log.to_pylist()] == [
        (name, step) for name in ("colour", "words") for step in (1, 2)
    ]
    assert found.base["folder"] == str(tiny_folder)


def test_norms_and_angles_are_those_of_the_merged_weights(experts: tuple[Experts, Path], tiny_folder: Path) -> None:
    found, _ = experts
    base = read(tiny_folder, dtype="float32").network.state_dict()
    deltas = []
    for row in found.experts.to_pylist():
        merged = read(tiny_folder, adapter=found.folder / row["path"], dtype="float32").network.state_dict()
        deltas.append(torch.cat([(merged[n].double() - w.double()).flatten() for n, w in base.items()]))
        assert row["delta_norm"] == pytest.approx(float(deltas[-1].norm()), rel=1e-3)
        assert (row["rank"], row["scaling"], row["n_tensors"]) == (2, 2.0, 14)
    cosine = float(torch.dot(*deltas) / (deltas[0].norm() * deltas[1].norm()))
    assert found.geometry.to_pylist()[0]["cosine"] == pytest.approx(cosine, abs=2e-3)


def test_a_model_a_mixture_with_exact_quotas(tiny_folder: Path, squares: Conversations, tmp_path: Path) -> None:
    rows = [
        {"mixture_id": i, "domains": ["words", "colour"], "weights": w, "source": "explicit", "entropy": 0.0}
        for i, w in (("m/1", [0.25, 0.75]), ("m/2", [1.0, 0.0]))
    ]
    mixtures = Mixtures(["words", "colour"], arrow_table("dmo_mixture", rows))
    found = train_mixtures(
        local_context(tmp_path), base=Lvlm(tiny_folder, dtype="float32"), data=squares, mixtures=mixtures, **QUICK
    )
    assert [m["summary"]["drawn"] for m in found.models] == [{"colour": 6, "words": 2}, {"words": 8}]
    assert [m["weights"] for m in found.models] == [{"words": 0.25, "colour": 0.75}, {"words": 1.0, "colour": 0.0}]
    assert found.domains == ["words", "colour"] and {m["summary"]["steps"] for m in found.models} == {2}
    assert all((found.folder / m["path"] / "adapter_config.json").is_file() for m in found.models)


def test_unknown_domains_are_refused(tiny_folder: Path, squares: Conversations, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="charts: no such domain; the data have colour, words"):
        train_experts(local_context(tmp_path), base=Lvlm(tiny_folder), data=squares, domains=["charts"])


def test_names_of_folders_cannot_lead_elsewhere() -> None:
    assert folder_name(3, "../../etc/päs swd\n") == "003-------etc-p-s-swd-"
    assert len(folder_name(1, "x" * 500)) == 64
