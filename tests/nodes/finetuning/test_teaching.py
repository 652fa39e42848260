"""Learning from a teacher: what is compared with what, and that nothing but the positions asked for counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from runner.artifacts import Conversations
from runner.context import local_context
from runner.errors import ModelRefused
from runner.models.lvlm.anatomy import anatomy
from runner.models.lvlm.batches import encode, records_of
from runner.models.lvlm.loading import Lvlm
from runner.nodes.finetuning.examples import Inputs, Kept
from runner.nodes.finetuning.losses import forward_kl, hidden_l2, reverse_kl
from runner.nodes.finetuning.objective import Objective, Terms, counts
from runner.nodes.finetuning.running import chosen_rows
from runner.nodes.finetuning.specs import LAST, HiddenLoss, Lora, Loss, Optim
from runner.nodes.finetuning.steps import finetune
from runner.nodes.finetuning.teaching import Outputs, Sight, Teacher, check_pair, make_teacher, pair_layers, same_sight
from tests.chat.tiny_vlm import make_tiny_vlm

ROWS = [0, 3, 9, 10]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    return Lvlm(make_tiny_vlm(tmp_path_factory.mktemp("teacher") / "llava", "llava", seed=1), dtype="float32")


@pytest.fixture(scope="module")
def student(tiny_folder: Path) -> Lvlm:
    return Lvlm(tiny_folder, dtype="float32")


@pytest.fixture(scope="module")
def batch(student: Lvlm, squares: Conversations) -> Inputs:
    """With pixels: every network looks for itself."""
    records = list(records_of(squares, [chosen_rows(squares, 1.0, 0)[i] for i in ROWS]))
    found = encode(student.load(), records)
    return Inputs(found.inputs, found["labels"], None, found.record_ids, ROWS)


def loss_of(**given: Any) -> Loss:
    return Loss.model_validate(given)


def judged(student: Lvlm, teacher: Lvlm, batch: Inputs, loss: Loss, sight: str = "own") -> Terms:
    mine, theirs = student.load(), teacher.load()
    teach = make_teacher(teacher, theirs, student, mine, loss, Sight(sight))
    parts = anatomy(mine.network)
    with torch.no_grad():
        return Objective(mine.network, parts, loss, teach, teach.pairing.student)(batch, counts([batch], loss))


def whole_outputs(model: Lvlm, batch: Inputs) -> Any:
    with torch.no_grad():
        return model.load().network(**batch.inputs, labels=batch.labels, output_hidden_states=True)


@pytest.mark.parametrize("where", ["labels", "attention", "all"])
def test_terms_are_those_of_all_logits_and_states(student: Lvlm, other: Lvlm, batch: Inputs, where: str) -> None:
    mine, theirs = whole_outputs(student, batch), whole_outputs(other, batch)
    mask = torch.zeros_like(batch.labels, dtype=torch.bool)
    mask[:, :-1] = batch.labels[:, 1:] != -100
    mask = {"labels": mask, "attention": batch.inputs["attention_mask"].bool(), "all": torch.ones_like(mask)}[where]
    hidden, logits = {"weight": 0.3, "layers": "last"}, {"weight": 0.2, "divergence": "reverse_kl", "temperature": 3.0}
    found = judged(student, other, batch, loss_of(ce=0.5, hidden=hidden, logits=logits, kd_mask=where))
    l2 = float(hidden_l2(mine.hidden_states[-1], theirs.hidden_states[-1], mask))
    kl = float(reverse_kl(mine.logits, theirs.logits, mask, 3.0))
    assert found.kd_hidden == pytest.approx(l2, rel=1e-4) and found.kd_logits == pytest.approx(kl, rel=1e-4)
    assert float(found.total) == pytest.approx(0.5 * float(mine.loss) + 0.3 * l2 + 0.2 * kl, rel=1e-4)


def test_the_reference_sums_over_all_positions(student: Lvlm, other: Lvlm, batch: Inputs) -> None:
    """alpha * KD / m + (1 - alpha) * CE with alpha 0.5, m 10, T 2: all positions, divided by the records."""
    loss = loss_of(ce=0.5, logits={"weight": 0.05, "temperature": 2.0}, kd_mask="all", kd_reduction="batch_sum")
    mine, theirs = whole_outputs(student, batch), whole_outputs(other, batch)
    kd = float(forward_kl(mine.logits, theirs.logits, None, 2.0, "batch_sum"))
    assert float(judged(student, other, batch, loss).total) == pytest.approx(
        0.5 * kd / 10 + 0.5 * float(mine.loss), rel=1e-4
    )


def test_a_model_has_nothing_to_learn_from_itself(student: Lvlm, batch: Inputs) -> None:
    loss = loss_of(ce=0.7, hidden={"weight": 1, "layers": "kept"}, logits={"weight": 1})
    found = judged(student, student, batch, loss)
    plain = judged_alone(student, batch)
    assert found.kd_hidden == 0 and found.kd_logits == pytest.approx(0, abs=1e-5)
    assert float(found.total) == pytest.approx(0.7 * float(plain.total), abs=1e-4)


def judged_alone(student: Lvlm, batch: Inputs, **given: Any) -> Terms:
    loss, loaded = loss_of(**given), student.load()
    with torch.no_grad():
        return Objective(loaded.network, anatomy(loaded.network), loss)(batch, counts([batch], loss))


def test_a_weight_of_zero_is_exactly_cross_entropy(student: Lvlm, other: Lvlm, batch: Inputs) -> None:
    weighted = judged(student, other, batch, loss_of(ce=1, hidden={"weight": 0}, logits={"weight": 0}))
    assert torch.equal(weighted.total, judged_alone(student, batch).total)


def test_all_words_but_one_say_as_much_as_all(student: Lvlm, other: Lvlm, batch: Inputs) -> None:
    words = int(student.load().network.config.text_config.vocab_size)
    full, most, few = (
        judged(student, other, batch, loss_of(logits={"weight": 1, "top_k": k})).kd_logits for k in (None, words - 1, 8)
    )
    assert full is not None and few is not None
    assert most == pytest.approx(full, rel=1e-3)
    assert few < full


def test_blocks_are_compared_where_they_stood(student: Lvlm, other: Lvlm, batch: Inputs) -> None:
    """A student whose first block is gone: its only block is compared with the teacher's second."""

    class Shorter(Lvlm):
        def load(self, *, dtype: str | None = None) -> Any:
            from runner.models.lvlm.cutting import drop_layers

            loaded = super().load(dtype=dtype)
            drop_layers(loaded.network, [1])
            return loaded

    short = Shorter(student.folder, dtype="float32")
    loss = loss_of(ce=0, hidden={"weight": 1, "layers": "kept", "teacher_layers": [1]})
    mine, theirs = whole_outputs(short, batch), whole_outputs(other, batch)
    found = judged(short, other, batch, loss)
    mask = batch.target_mask
    blocks: dict[int, torch.Tensor] = {}
    for number, model in enumerate((short, other)):
        network = model.load().network
        anatomy(network).layers[-1].register_forward_hook(
            lambda m, a, out, n=number: blocks.update({n: out[0] if isinstance(out, tuple) else out})
        )
        with torch.no_grad():
            network(**batch.inputs)
    assert found.kd_hidden == pytest.approx(float(hidden_l2(blocks[0], blocks[1], mask)), rel=1e-4)
    assert mine.logits.shape == theirs.logits.shape
    with pytest.raises(ModelRefused, match="nothing says which were kept"):
        judged(short, other, batch, loss_of(hidden={"weight": 1, "layers": "kept"}))


def test_pairs_of_blocks() -> None:
    def pairs(layers: Any, mine: Any, theirs: Any, counts: tuple[int, int]) -> Any:
        found = pair_layers(HiddenLoss(layers=layers), mine, theirs, counts)
        return found.student, found.teacher

    assert pairs("last", None, None, (3, 9)) == ([LAST], [LAST])
    assert pairs("kept", [0, 2, 3], None, (3, 4)) == ([0, 1, 2], [0, 2, 3])
    assert pairs([1, LAST], [0, 3], [0, 2, 3], (2, 3)) == ([1, LAST], [2, LAST])
    assert pairs("kept", None, None, (2, 2)) == ([0, 1], [0, 1])
    with pytest.raises(ModelRefused, match="beyond the student's 3 blocks"):
        pairs([3], None, None, (3, 3))
    with pytest.raises(ModelRefused, match="no block 1 "):
        pairs("kept", [0, 1], [0, 2], (2, 2))


def test_a_teacher_may_be_shown_the_students_embeddings(student: Lvlm, batch: Inputs) -> None:
    """With the student's own language model behind another projector: alike once both are given the same embeddings."""

    class Squinting(Lvlm):
        def load(self, *, dtype: str | None = None) -> Any:
            loaded = super().load(dtype=dtype)
            with torch.no_grad():
                for parameter in anatomy(loaded.network).projector.parameters():
                    parameter.mul_(-2)
            return loaded

    teacher, loss = Squinting(student.folder, dtype="float32"), loss_of(ce=0, hidden={"weight": 1})
    own, shown = (judged(student, teacher, batch, loss, sight).kd_hidden for sight in ("own", "student"))
    assert own is not None and own > 1e-3
    assert shown == pytest.approx(0, abs=1e-9)


def test_kept_outputs_are_those_of_the_teacher(
    student: Lvlm, other: Lvlm, squares: Conversations, tmp_path: Path
) -> None:
    loss = loss_of(hidden={"weight": 1, "layers": [0, LAST]}, logits={"weight": 1})
    loaded, rows = student.load(), chosen_rows(squares, 1.0, 0)
    feed = Kept(loaded, squares, rows, 512, tmp_path / "examples", lambda n: None)
    theirs = other.load()
    own = Kept(theirs, squares, rows, 512, tmp_path / "own", lambda n: None)
    assert not same_sight(loaded, theirs) and same_sight(loaded, student.load()) and own.same_tokens(feed)
    teacher: Teacher = make_teacher(other, theirs, student, loaded, loss, Sight("own", own.features))
    outputs = Outputs(tmp_path / "taught", range(12))
    done: list[int] = []
    outputs.fill(teacher, feed, done.append)
    live, kept = teacher.states(feed.batch(ROWS)), outputs.read(ROWS, "cpu")
    assert sum(done) == 12
    torch.testing.assert_close(kept[0], live[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept[1], live[1], rtol=1e-4, atol=1e-4)


def test_a_student_comes_nearer_to_its_teacher(
    student: Lvlm, other: Lvlm, squares: Conversations, tmp_path: Path
) -> None:
    """Teacher with another vision tower and projector, several passes: pictures of its own, outputs kept."""
    optim = Optim(lr=1e-2, steps=8, batch_size=12, precision="fp32", warmup_ratio=0)
    loss = loss_of(ce=0, hidden={"weight": 0.5}, logits={"weight": 0.5})
    found = finetune(
        local_context(tmp_path), model=student, data=squares, train="lora", label="x", lora=Lora(r=8, alpha=16), optim=optim,
        loss=loss, teacher=other,
    )  # fmt: skip
    rows = found.log.to_pylist()
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"] and rows[0]["ce"] is None
    assert rows[0]["loss"] == pytest.approx(0.5 * rows[0]["kd_hidden"] + 0.5 * rows[0]["kd_logits"], rel=1e-5)
    assert list((tmp_path / "scratch" / "teacher").glob("*.safetensors"))


def test_other_words_are_refused(student: Lvlm, other: Lvlm) -> None:
    mine, theirs = student.load(), other.load()
    parts = anatomy(mine.network), anatomy(theirs.network)
    theirs.network.resize_token_embeddings(400, mean_resizing=False)
    wider = anatomy(theirs.network)
    with pytest.raises(ModelRefused, match=r"logits of \d+ words"):
        check_pair(mine, theirs, parts[0], wider, loss_of(logits={"weight": 1}), "own")
    theirs.tokenizer.add_tokens(["gnu"])
    with pytest.raises(ModelRefused, match="different vocabularies"):
        check_pair(mine, theirs, parts[0], parts[1], loss_of(hidden={"weight": 1}), "own")
