"""Text models that scale their logits: the loss is the network's own, and so is what is learned of a teacher like it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from runner.models.lvlm.anatomy import anatomy
from runner.models.lvlm.loading import LoadedLvlm
from runner.nodes.finetuning.examples import Inputs
from runner.nodes.finetuning.losses import forward_kl
from runner.nodes.finetuning.objective import Objective, counts
from runner.nodes.finetuning.specs import Loss
from runner.nodes.finetuning.teaching import Pairing, Sight, Teacher

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 64, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def tiny(kind: str, seed: int) -> Any:
    from transformers import CohereConfig, CohereForCausalLM, GraniteConfig, GraniteForCausalLM

    torch.manual_seed(seed)
    network: Any
    if kind == "granite":
        network = GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0))
    else:
        network = CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.0625))
    return network.eval()


def batch() -> Inputs:
    ids = torch.randint(3, 64, (2, 7), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :3] = -100
    return Inputs({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels, None, ["a", "b"], [0, 1])


@pytest.mark.parametrize("kind", ["granite", "cohere"])
def test_scaled_logits_give_the_networks_own_loss(kind: str) -> None:
    student, teacher, given = tiny(kind, 0), tiny(kind, 1), batch()
    loss = Loss.model_validate({"ce": 0.5, "logits": {"weight": 0.25, "divergence": "forward_kl", "temperature": 2.0}})
    loaded = LoadedLvlm(teacher, None, None, "cpu", "teacher")
    teach = Teacher(loaded, anatomy(teacher), loss, Pairing([], []), Sight("own"))
    with torch.no_grad():
        found = Objective(student, anatomy(student), loss, teach)(given, counts([given], loss))
        mine, theirs = student(**given.inputs, labels=given.labels), teacher(**given.inputs)
    kl = float(forward_kl(mine.logits, theirs.logits, given.target_mask, 2.0))
    assert found.ce == pytest.approx(float(mine.loss), rel=1e-5)
    assert found.kd_logits == pytest.approx(kl, rel=1e-4) and kl > 1e-4
    assert float(found.total) == pytest.approx(0.5 * float(mine.loss) + 0.25 * kl, rel=1e-4)
