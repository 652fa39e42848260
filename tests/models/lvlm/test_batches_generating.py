"""Reading folders, batches with labels, likelihoods and halves of networks, on tiny random models of four layouts."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.errors import DataError, ModelRefused
from runner.models.chat.templates import ChatTemplate
from runner.models.lvlm.batches import IGNORED, Record, encode, moved, picture_tokens, shown
from runner.models.lvlm.capture import decoder_inputs, logits_of, run_decoder
from runner.models.lvlm.classifier import LvlmClassifier
from runner.models.lvlm.generating import Question, generate, means, reply_log_likelihoods, token_nll
from runner.models.lvlm.loading import LoadedLvlm, Lvlm, read
from tests.chat.tiny_vlm import make_tiny_vlm

LAYOUTS = ("llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl")
RED = Image.new("RGB", (60, 80), "red")
WIDE = Image.new("RGB", (100, 50), "blue")
TALK = Record(
    "talk",
    [RED],
    [("user", "<image>\nWhich animal?"), ("assistant", " a dog "), ("user", "legs?"), ("assistant", "four")],
)
TEXT = Record("text", [], [("system", "be brief"), ("user", "hi"), ("assistant", "label 0")])
PAIR = Record("pair", [RED, WIDE], [("user", "one <image><image> two"), ("assistant", "yes")])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("tiny")
    return {layout: make_tiny_vlm(base / layout, layout) for layout in LAYOUTS}


@pytest.fixture(scope="module", params=LAYOUTS)
def loaded(request, folders):
    return read(folders[request.param], dtype="float32")


@pytest.fixture(scope="module")
def llava(folders):
    return read(folders["llava"], dtype="float32")


def labelled(loaded, batch, row):
    labels = batch["labels"][row]
    return loaded.tokenizer.decode(labels[labels != IGNORED])


def test_labels_are_the_replies_with_their_ends_and_nothing_else(loaded):
    batch = encode(loaded, [TALK, TEXT, PAIR])
    assert [labelled(loaded, batch, row) for row in range(3)] == [
        "a dog<|im_end|>four<|im_end|>",
        "label 0<|im_end|>",
        "yes<|im_end|>",
    ]
    counted = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][counted], batch["input_ids"][counted])
    assert not (counted & ~batch["attention_mask"].bool()).any()
    assert batch["attention_mask"][:, 0].all() and batch.record_ids == ["talk", "text", "pair"]  # padded on the right
    whole = encode(loaded, [TALK, TEXT, PAIR], answers_only=False)["labels"]
    pictures = torch.isin(batch["input_ids"], torch.tensor(picture_tokens(loaded)))
    assert (
        pictures.any()
        and (whole[pictures] == IGNORED).all()
        and (whole[~batch["attention_mask"].bool()] == IGNORED).all()
    )


def test_a_record_alone_has_the_labels_it_has_in_a_batch(loaded):
    together = encode(loaded, [TALK, TEXT, PAIR])
    for row, record in enumerate((TALK, TEXT, PAIR)):
        alone = encode(loaded, [record])["labels"][0]
        assert torch.equal(alone, together["labels"][row, : len(alone)])
        assert (together["labels"][row, len(alone) :] == IGNORED).all()


def test_special_tokens_in_texts_are_text(llava):
    hostile = Record("h", [RED], [("user", "<image> or <image>? <|im_end|>"), ("assistant", "<image><|im_end|> done")])
    batch = encode(llava, [hostile])
    end = llava.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert int((batch["input_ids"] == picture_tokens(llava)[0]).sum()) == 16  # one picture of (56 / 14)^2 patches
    assert int((batch["input_ids"] == end).sum()) == 2  # one a turn
    assert labelled(llava, batch, 0) == "< image>< |im_end|> done<|im_end|>"


def test_what_truncation_leaves_without_a_label_is_dropped_and_named(llava):
    length = int(encode(llava, [TEXT])["attention_mask"].sum())
    batch = encode(llava, [PAIR, TEXT], max_length=length)
    assert batch.record_ids == ["text"] and batch.dropped == ["pair"] and batch["input_ids"].shape[1] <= length
    assert encode(llava, [TALK], max_length=4).record_ids == []


def test_a_model_without_pictures_refuses_them(llava):
    blind = LoadedLvlm(llava.network, None, llava.tokenizer, "cpu", "blind")
    with pytest.raises(ModelRefused, match="reads text only"):
        encode(blind, [TALK])
    assert labelled(blind, encode(blind, [TEXT]), 0) == "label 0<|im_end|>"


def test_an_end_is_added_where_the_template_writes_none(llava):
    class Bare(ChatTemplate):
        def render(self, messages, *, reply_next=True):
            return "".join(f"{role}: {''.join(parts)} " for role, parts in messages)

    blind = LoadedLvlm(llava.network, None, llava.tokenizer, "cpu", "blind")
    blind.__dict__["chat"] = Bare(llava.tokenizer, "bare")
    turns = [("user", "q"), ("assistant", "cat"), ("user", "r"), ("assistant", "dog")]
    assert labelled(blind, encode(blind, [Record("r", [], turns)]), 0).replace(" ", "") == "catdog<|im_end|>"


def test_a_template_that_raises_names_the_record(llava):
    class Strict(ChatTemplate):
        def render(self, messages, *, reply_next=True):
            raise ValueError("roles must alternate")

    blind = LoadedLvlm(llava.network, None, llava.tokenizer, "cpu", "blind")
    blind.__dict__["chat"] = Strict(llava.tokenizer, "strict")
    with pytest.raises(DataError, match="text: the chat template of blind cannot write it: roles must alternate"):
        encode(blind, [TEXT])


@given(st.lists(st.text("ab\n ", max_size=4), min_size=1, max_size=4), st.integers(1, 9))
def test_spans_move_with_expanded_pictures(pieces, tokens):
    pieces = [f"<s>{piece}</s>" for piece in pieces]  # the template's own tokens stand around every text
    text, expanded = "<image>".join(pieces), ("<image>" * tokens + "\n").join(pieces)
    at = 0
    for piece in pieces:
        [(start, end)] = moved([(at, at + len(piece))], text, expanded, "<image>")
        assert expanded[start:end] == piece
        at += len(piece) + len("<image>")


def test_pictures_without_a_sign_come_first():
    [(role, parts)] = shown(Record("r", [RED, WIDE], [("user", "a <image> b <image-> c")]))
    assert role == "user" and [isinstance(part, str) for part in parts] == [False, True, False, True]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_nll_is_that_of_all_logits(loaded):
    batch = encode(loaded, [TALK, TEXT, PAIR])
    with torch.no_grad():
        logits = loaded.network(**batch.inputs).logits[:, :-1].double().log_softmax(-1)
    labels = batch["labels"][:, 1:]
    counted = labels != IGNORED
    picked = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * counted
    sums, counts = token_nll(loaded, batch)
    torch.testing.assert_close(sums.double(), -picked.sum(1), rtol=1e-5, atol=1e-5)
    assert counts.tolist() == counted.sum(1).tolist()


def test_two_halves_are_the_whole(loaded):
    batch = encode(loaded, [TALK, PAIR])
    with torch.no_grad():
        whole = loaded.network(**batch.inputs).logits
        halves = run_decoder(loaded.network, decoder_inputs(loaded.network, batch))
        torch.testing.assert_close(logits_of(loaded.network, halves), whole, rtol=1e-5, atol=1e-5)


def test_likelihoods_of_replies_are_those_of_whole_conversations(loaded):
    questions = [Question([RED], "which animal is it?"), Question([], "legs?", "be brief"), Question([WIDE], "and?")]
    replies = [["cat", "a dog", "pale green frog"], ["4", "5"], ["red", "a red cat", "x"]]
    found = reply_log_likelihoods(loaded, questions, replies)
    for row, (question, some) in enumerate(zip(questions, replies, strict=True)):
        sums, counts = token_nll(loaded, encode(loaded, [question.record(reply) for reply in some]))
        torch.testing.assert_close(found.totals[row, : len(some)], -sums, rtol=1e-4, atol=1e-4)
        assert found.tokens[row, : len(some)].tolist() == counts.tolist()
    assert found.totals[1, 2] == -torch.inf
    assert generate(loaded, questions, choices=replies) == [
        some[int(r.argmax())] for some, r in zip(replies, found.totals, strict=True)
    ]


def test_a_reply_does_not_depend_on_the_questions_beside_it(loaded):
    questions = [Question([RED], "which animal is it?"), Question([WIDE], "a longer question: which colour has it?")]
    together = generate(loaded, questions, max_new_tokens=6)
    assert together == [generate(loaded, [question], max_new_tokens=6)[0] for question in questions]


def test_a_prompt_longer_than_the_model_is_refused(llava):
    with pytest.raises(DataError, match="context too long"):
        generate(llava, [Question([], "x" * 5000)])


# --- folders ---------------------------------------------------------------------------------------------------------


def test_every_load_is_a_copy_of_its_own(folders):
    handle = Lvlm(folders["llava"], dtype="float32")
    first, second = handle.load(), handle.load()
    with torch.no_grad():
        next(first.network.parameters()).add_(1)
    assert not torch.equal(next(first.network.parameters()), next(second.network.parameters()))
    assert handle.load(dtype="bfloat16").dtype == torch.bfloat16 and not second.network.training
    assert handle.identity != Lvlm(folders["llava"], dtype="bfloat16").identity


def test_an_adapter_is_merged_in_float32(folders, tmp_path):
    from peft import LoraConfig, get_peft_model

    loaded = read(folders["llava"], dtype="float32")
    tuned = get_peft_model(loaded.network, LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    batch = encode(loaded, [TALK])
    with torch.no_grad():
        wanted = tuned(**batch.inputs).logits
        merged = read(folders["llava"], adapter=tmp_path / "adapter", dtype="float32")
        torch.testing.assert_close(merged.network(**batch.inputs).logits, wanted, rtol=1e-4, atol=1e-4)
    (tmp_path / "none").mkdir()
    assert Lvlm(folders["llava"], adapter=tmp_path / "none").adapter is None
    assert Lvlm(folders["llava"], adapter=tmp_path / "adapter").identity != Lvlm(folders["llava"]).identity


def spoilt(folder, to, **changes):
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changes))
    return to


def test_unsafe_or_unusable_folders_are_refused_before_weights_are_read(folders, tmp_path):
    quantised = spoilt(folders["llava"], tmp_path / "q", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelRefused, match="quantised"):
        Lvlm(quantised)
    pickled = spoilt(folders["llava"], tmp_path / "p")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"pytorch_model\.bin"):
        read(pickled)
    foreign = spoilt(folders["llava"], tmp_path / "f", model_type="no_such", auto_map={"AutoModel": "code.Model"})
    with pytest.raises(ModelRefused, match="is not run"):
        read(foreign)
    torn = spoilt(folders["llava"], tmp_path / "t")
    (torn / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    with pytest.raises(ModelRefused, match="1 of 1 weight files"):
        Lvlm(torn)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelRefused, match=r"no config\.json"):
        Lvlm(tmp_path / "empty")
    with pytest.raises(ModelRefused, match="not among"):
        read(folders["llava"], dtype="int8")


# --- classifier ------------------------------------------------------------------------------------------------------


def test_a_classifier_scores_labels_as_replies(folders):
    from runner.models.classifier.checks import check_classifier

    handle = Lvlm(folders["llava"], dtype="float32")
    labels = ["cat", "a pale green frog"]
    plain, mean = (LvlmClassifier(handle, "Which animal?", labels, normalise=kind) for kind in ("none", "tokens"))
    check_classifier(mean)
    picture = RED.resize((56, 56))
    assert plain.side == 56 and plain.prepare(WIDE).shape == (3, 56, 56)
    batch = plain.prepare(picture)[None]
    found = reply_log_likelihoods(handle.load(), [Question([picture], "Which animal?")], [labels])
    torch.testing.assert_close(torch.tensor(plain.logits(batch)), found.totals, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.tensor(mean.logits(batch)), means(found), rtol=1e-4, atol=1e-4)
    assert plain.identity != mean.identity
    with pytest.raises(ModelRefused, match="the same"):
        LvlmClassifier(handle, "?", ["cat", "cat "])
