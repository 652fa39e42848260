"""The steps of the weights' side on a tiny CLIP with random weights, written to disk and read back by stock open_clip."""

import json

import numpy as np
import open_clip
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from sith_towers import explicit

from results.tables import arrow_table
from runner.artifacts import AttributedImages, ConceptDictionary, HeadConcepts, HeadJudgements, ImageFeatures
from runner.context import local_context
from runner.errors import DataError, ModelRefused
from runner.models.encoders.clip import load_local
from runner.nodes.classify.features import encoder_info, features_of
from runner.nodes.sith import weight_steps as steps
from runner.nodes.sith.weights import svd_of_product, unit, vo_factors

H, R, D, LAYERS = 2, 8, 16, 3
MODEL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": LAYERS, "width": D, "head_width": R, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CONCEPTS = ["sea", "river", "forest", "meadow", "red", "blue", "nurse", "pilot", "cat", "dog"]


def write_clip(folder, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL, "preprocess_cfg": {"size": 32}, "runner": {"small": True}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    torch.manual_seed(seed)
    for value in model.visual.parameters():
        value.data += torch.randn_like(value) * 0.2
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return load(folder)


def load(folder):
    return load_local(folder, None, device="cpu", half=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "run")


@pytest.fixture(scope="module")
def directions(clip, tmp_path_factory):
    return steps.decompose(local_context(tmp_path_factory.mktemp("d")), clip=clip, layers=[-2, -1], image_mean="zero")


@pytest.fixture(scope="module")
def dictionary(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dictionary")
    (folder / "concepts.txt").write_text("\n".join(CONCEPTS) + "\n")
    np.save(folder / "embeddings.npy", clip.raw_texts(CONCEPTS))
    return ConceptDictionary({"name": "words", "encoder": encoder_info(clip)}, folder)


def places():
    return [(layer, head, sv) for layer in (1, 2) for head in range(H) for sv in range(R)]


def judged(directions, score, task="background", status="scored"):
    rows = [
        {"task": task, "layer": layer, "head": head, "sv": sv, "side": "right", "sign": 1, "score": score(layer, head, sv),
         "status": status if score(layer, head, sv) else "unscored", "attempts": 1, "judge": "j", "prompt_hash": "p", "cached": False}
        for layer, head, sv in places()
    ]  # fmt: skip
    return HeadJudgements(directions.model, task, "j", arrow_table("sith_judgement", rows))


def told(directions, seed=0):
    """Two concepts for each direction."""
    rng, rows = np.random.default_rng(seed), []
    for layer, head, sv in places():
        for pick, atom in enumerate(rng.choice(len(CONCEPTS), 2, replace=False).tolist()):
            rows.append({"layer": layer, "head": head, "sv": sv, "side": "right", "sign": 1, "method": "comp", "k": 2,
                         "coherence": 0.3, "pick": pick, "rank": pick, "atom": atom, "concept": CONCEPTS[atom], "coef": 0.5 - 0.2 * pick,
                         "gap": 0.1})  # fmt: skip
    return HeadConcepts(directions.model, {}, {}, arrow_table("sith_code", []), arrow_table("sith_concept", rows))


def pictures(count=4):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def rows_of(table):
    return table.to_pylist()


# --- decompose ---------------------------------------------------------------------------------------------------------


def test_directions_hold_the_singular_vectors_and_their_rows(clip, directions):
    A, B, _ = vo_factors(clip.network.visual, 2)
    a = directions.arrays
    np.testing.assert_allclose((a["L2.u"] * a["L2.s"][:, None]) @ a["L2.vh"], A @ B, atol=1e-5)
    names = ("u", "s", "vh", "joint", "joint_neg")
    assert set(a) == {f"L{layer}.{name}" for layer in (1, 2) for name in names} | {"mu", "proj"}
    assert a["L1.joint"].shape == (H, R, 12) and all(value.dtype == np.float32 for value in a.values())
    assert (
        directions.model["layers"] == [1, 2]
        and directions.model["heads"] == [0, 1]
        and directions.model["small"] is True
    )
    heads, rows = rows_of(directions.heads), rows_of(directions.directions)
    assert len(heads) == 2 * H and [(r["layer"], r["head"], r["sv"]) for r in rows] == places()
    energy = a["L1.s"][0].astype(float) ** 2
    assert heads[0]["fro_norm"] == pytest.approx(energy.sum() ** 0.5)
    share = energy / energy.sum()
    assert heads[0]["eff_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert rows[3]["sigma_share"] == pytest.approx(share[3]) and -1 <= rows[3]["ceiling"] <= 1


def test_the_image_mean_comes_from_one_named_place(clip, ctx, dictionary, tmp_path):
    vectors = unit(torch.randn(5, 12)).numpy()
    info = {"dataset": "x", "classes": ["a"]}
    rows = [{"dataset": "x", "split": "test", "sample_id": str(i), "target": "a", "class_index": 0} for i in range(5)]
    features = features_of([info], encoder_info(clip), rows, vectors)
    found = steps.decompose(ctx, clip=clip, layers=[-1], heads=[1], rank=3, side="both", features=features)
    np.testing.assert_allclose(found.arrays["mu"], vectors.mean(0), atol=1e-6)
    assert (
        found.arrays["L2.joint_left"].shape == (1, 3, 12)
        and found.model["image_mean_source"] == "mean of 5 image embeddings"
    )
    np.save(tmp_path / "mean.npy", vectors.mean(0))
    same = steps.decompose(ctx, clip=clip, layers=[-1], heads=[1], rank=3, mean_file=str(tmp_path / "mean.npy"))
    np.testing.assert_allclose(same.arrays["L2.joint"], found.arrays["L2.joint"], atol=1e-6)
    texts = steps.decompose(ctx, clip=clip, layers=[-1], dictionary=dictionary)
    np.testing.assert_allclose(texts.arrays["mu"], clip.encode_texts(CONCEPTS).mean(0), atol=1e-5)
    plain = steps.decompose(ctx, clip=clip, layers=[-1], centre=False)
    assert not plain.arrays["mu"].any() and plain.model["image_mean_source"] == "not centred"
    other = ImageFeatures([], {**encoder_info(clip), "identity": "z"}, features.features, features.rows)
    np.save(tmp_path / "short.npy", vectors[0, :4])
    for given, words in (
        ({}, "named 0 times"),
        ({"features": features, "image_mean": "zero"}, "named 2 times"),
        ({"features": other}, "whose space is another"),
        ({"mean_file": str(tmp_path / "short.npy")}, r"shape \[4\]"),
        ({"rank": 9, "image_mean": "zero"}, "has 8 directions"),
        ({"heads": [0, 2], "image_mean": "zero"}, "from 0 to 1"),
        ({"layers": [-4], "image_mean": "zero"}, "has 3 blocks"),
    ):
        with pytest.raises(DataError, match=words):
            steps.decompose(ctx, **{"clip": clip, "layers": [-1], **given})


# --- edit --------------------------------------------------------------------------------------------------------------


def test_a_preset_writes_a_checkpoint_that_stock_open_clip_loads(clip, directions, ctx):
    scores = judged(
        directions, lambda layer, head, sv: 5 if (layer, head, sv) == (2, 1, 0) else 3 if sv == 1 else 1, "safety"
    )
    made = steps.edit(ctx, clip=clip, directions=directions, preset="nsfw", judgements=scores)
    stock, _, _ = open_clip.create_model_and_transforms(f"local-dir:{made.checkpoint}")
    ours = load(made.checkpoint)
    W, b = {}, {}
    for layer in (1, 2):
        A, B, b[layer] = vo_factors(clip.network.visual, layer)
        u, s, vh = svd_of_product(A, B)
        m = torch.ones(H, R)
        m[:, 1] = -1
        if layer == 2:
            m[1, 0] = 0
        W[layer] = (u * (s * m)[:, None]) @ vh
    wanted = explicit(clip.network.visual, pictures(), W, b, folded=True)
    for model in (stock.eval(), ours.network):
        assert float((model.encode_image(pictures()) - wanted).abs().max()) < 2e-5 * float(wanted.abs().max())
    assert ours.small and ours.config["runner"] == {"small": True}
    np.testing.assert_allclose(ours.raw_texts(["a cat"]), clip.raw_texts(["a cat"]), atol=1e-6)
    rows = rows_of(made.edits)
    assert [(r["layer"], r["head"], r["sv"]) for r in rows] == [(1, 0, 1), (1, 1, 1), (2, 0, 1), (2, 1, 0), (2, 1, 1)]
    assert rows[3]["sigma_new"] == 0 and rows[0]["sigma_new"] == -rows[0]["sigma_old"]
    assert rows[3]["reason"] == "score >= 4 -> 0; score 5"
    s2 = {layer: directions.arrays[f"L{layer}.s"].astype(float) ** 2 for layer in (1, 2)}
    share = sum(s2[r["layer"]][r["head"], r["sv"]] for r in rows) / sum(part.sum() for part in s2.values())
    assert made.summary["energy_share_changed"] == pytest.approx(share) and made.summary["changed"] == 5
    record = json.loads((made.checkpoint / "edit.json").read_text())
    assert record["edits"] == rows and record["model"]["identity"] == clip.identity


def test_untouched_blocks_keep_their_weights_and_a_dry_run_writes_none(clip, directions, ctx):
    scores = judged(directions, lambda layer, head, sv: 4 if layer == 2 else 1)
    made = steps.edit(ctx, clip=clip, directions=directions, preset="spurious", judgements=scores, top_n_per_head=2)
    state, old = load_file(made.checkpoint / "open_clip_model.safetensors"), clip.network.state_dict()
    changed = {name for name in old if not torch.equal(state[name], old[name])}
    assert changed and all(name.startswith("visual.transformer.resblocks.2.") for name in changed)
    assert [(r["head"], r["sv"]) for r in rows_of(made.edits)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    (made.checkpoint / "open_clip_model.safetensors").unlink()
    dry = steps.edit(ctx, clip=clip, directions=directions, preset="spurious", judgements=scores, dry_run=True)
    assert dry.summary["changed"] == 16 and not (dry.checkpoint / "open_clip_model.safetensors").exists()
    with pytest.raises(ModelRefused, match="no open_clip_model"):
        load(dry.checkpoint)


def test_unscored_lists_are_left_alone_up_to_the_limit(clip, directions, ctx):
    scores = judged(directions, lambda layer, head, sv: None if (head, sv) == (0, 0) else 5)
    with pytest.raises(DataError, match="2 of 32 concept lists have no score"):
        steps.edit(ctx, clip=clip, directions=directions, preset="spurious", judgements=scores)
    made = steps.edit(ctx, clip=clip, directions=directions, preset="spurious", judgements=scores, max_unscored=0.1)
    assert made.summary["changed"] == 30 and made.summary["unscored"] == 2


def test_scores_from_a_file(clip, directions, ctx, tmp_path):
    file = tmp_path / "decisions.json"
    good = {"1": [1] * 16, "2": [5] + [1] * 15}
    file.write_text(json.dumps(good))
    made = steps.edit(ctx, clip=clip, directions=directions, preset="spurious", decisions=str(file))
    assert [(r["layer"], r["head"], r["sv"]) for r in rows_of(made.edits)] == [(2, 0, 0)]
    for bad, words in (
        ({"1": [1] * 16}, "layers 1, 2 as keys"),
        ({**good, "2": [1] * 15}, "15 values; expected 16"),
        ({**good, "2": [1] * 15 + [6]}, "value 15: expected an integer from 1 to 5"),
        ({**good, "2": [1] * 15 + [True]}, "value 15"),
        ({**good, "2": [1] * 15 + [2.5]}, "value 15"),
        ({**good, "2": [None] * 16}, "16 of 32 scores are null"),
    ):
        file.write_text(json.dumps(bad))
        with pytest.raises(DataError, match=words):
            steps.edit(ctx, clip=clip, directions=directions, preset="spurious", decisions=str(file))


def test_concepts_decide_by_pattern_name_and_likeness(clip, directions, ctx):
    concepts = told(directions)
    sea = {(r["layer"], r["head"], r["sv"]) for r in rows_of(concepts.concepts) if r["concept"] in ("sea", "river")}
    for match in ({"regex": "^(sea|river)$"}, {"concepts": ["SEA", "river "]}):
        made = steps.edit(
            ctx, clip=clip, directions=directions, concepts=concepts, match=steps.Match(**match, multiply=1.5)
        )
        assert {(r["layer"], r["head"], r["sv"]) for r in rows_of(made.edits)} == sea
        assert {r["multiplier"] for r in rows_of(made.edits)} == {1.5}
    near = steps.Match(text="sea", cosine=0.999999)
    made = steps.edit(ctx, clip=clip, directions=directions, concepts=concepts, match=near)
    assert all("'sea'" in r["reason"] and r["multiplier"] == 0 for r in rows_of(made.edits)) and made.edits.num_rows
    with pytest.raises(DataError, match="match goes by concepts"):
        steps.edit(ctx, clip=clip, directions=directions, match=near)
    for bad in ({}, {"regex": "("}, {"regex": "a", "text": "b"}):
        with pytest.raises(ValidationError):
            steps.Match(**bad)


def test_the_task_keeps_what_its_classes_are_made_of(clip, directions, dictionary, ctx):
    concepts = told(directions)
    task = steps.TaskRule(classes=["cat", "dog"], class_k=2, template="a {}")
    made = steps.edit(
        ctx, clip=clip, directions=directions, preset="task", task=task, concepts=concepts, dictionary=dictionary
    )
    g = clip.encode_texts(CONCEPTS).astype(float)
    from runner.nodes.sith.coding import comp

    kept = [i for i, text in enumerate(CONCEPTS) if text not in task.classes]
    code = comp(torch.from_numpy(clip.encode_texts(["a cat", "a dog"])), torch.from_numpy(g[kept]).float(), 2, 0.3)
    gamma = sorted({kept[i] for i in code.support[code.coefficients > 0].tolist()})
    found = {(r["layer"], r["head"], r["sv"]): r["multiplier"] for r in rows_of(made.edits)}
    for place in places():
        own = [r for r in rows_of(concepts.concepts) if (r["layer"], r["head"], r["sv"]) == place]
        relevance = sum(r["coef"] * max(g[r["atom"]] @ g[t] for t in gamma) for r in own)
        assert found.get(place, 1.0) == pytest.approx(max(0.8, relevance + 0.3), abs=1e-5)
    assert made.summary["task_concepts"] == len(gamma)


def test_reconstructions_take_the_place_of_the_right_vectors(clip, directions, dictionary, ctx):
    concepts = told(directions)
    made = steps.edit(
        ctx, clip=clip, directions=directions, preset="reconstruction", concepts=concepts, dictionary=dictionary
    )
    e = unit(torch.from_numpy(clip.raw_texts(CONCEPTS)).double())
    g = unit(e - e.mean(0))
    V = torch.zeros(2, H, R, D)
    for r in rows_of(concepts.concepts):
        V[r["layer"] - 1, r["head"], r["sv"]] += (
            r["coef"] * g[r["atom"]] @ torch.linalg.pinv(clip.network.visual.proj.double())
        ).float()
    W, b = {}, {}
    for at, layer in enumerate((1, 2)):
        A, B, b[layer] = vo_factors(clip.network.visual, layer)
        svd = svd_of_product(A, B)
        W[layer] = (svd.u * svd.s[:, None]) @ unit(V[at])
    wanted = explicit(clip.network.visual, pictures(), W, b, folded=True)
    assert float((load(made.checkpoint).network.encode_image(pictures()) - wanted).abs().max()) < 1e-4


def test_edits_that_cannot_be_meant_are_refused(clip, directions, ctx, tmp_path):
    other = write_clip(tmp_path / "other", seed=5)
    scores = judged(directions, lambda *place: 1)
    rule = steps.EditRule(when=steps.When(top=2), multiply=0)
    for given, words in (
        ({"clip": other, "preset": "spurious", "judgements": scores}, "not of other/"),
        ({}, "nothing says what to edit"),
        ({"preset": "spurious"}, "the rules go by score"),
        ({"rules": [rule]}, "the rules go by effect_rank"),
        ({"preset": "spurious", "rules": [rule], "judgements": scores}, "decides alone"),
        ({"preset": "task"}, "go together"),
    ):
        with pytest.raises(DataError, match=words):
            steps.edit(ctx, **{"clip": clip, "directions": directions, **given})
    for bad in ({}, {"score_ge": 1, "top": 2}, {"score_ge": 6}):
        with pytest.raises(ValidationError):
            steps.When(**bad)
    wrong = {**directions.arrays, "L1.s": directions.arrays["L1.s"] * 1.1}
    moved = type(directions)(directions.model, directions.heads, directions.directions, wrong)
    with pytest.raises(DataError, match="other singular vectors"):
        steps.edit(ctx, clip=clip, directions=moved, preset="spurious", judgements=judged(directions, lambda *place: 5))


# --- effects, comparison, adapters, recall -----------------------------------------------------------------------------


def attributed(values, captions=None):
    info = {"dataset": "x", "classes": ["bird"], "licence": ""}
    rows = [{"dataset": "x", "sample_id": name, "attribute": key, "value": value} for name, own in values.items() for key, value in own.items()]  # fmt: skip
    about = [{"dataset": "x", "attributes": {"place": ["land", "water"]}, "class_attribute": None}]
    return AttributedImages([info], [], arrow_table("dataset_image", []), about, arrow_table("dataset_attribute", rows))


def embedded(clip, vectors, names):
    rows = [{"dataset": "x", "split": "test", "sample_id": name, "target": "bird", "class_index": 0} for name in names]
    return features_of([{"dataset": "x", "classes": ["bird"]}], encoder_info(clip), rows, vectors)


def test_effects_rank_directions_by_hand_and_the_edit_takes_the_first(clip, directions, ctx):
    vectors, names = unit(torch.randn(6, 12, generator=torch.Generator().manual_seed(1))), [f"p{i}" for i in range(6)]
    images = attributed({name: {"place": "water" if i < 2 else "land"} for i, name in enumerate(names)})
    found = steps.attribute_effect(ctx, clip=clip, directions=directions, attribute="place",
                                   features=embedded(clip, vectors.numpy(), names), images=images)  # fmt: skip
    rows = rows_of(found.effects)
    delta = unit(vectors[:2].mean(0) - vectors[2:].mean(0))
    norm, proj = clip.network.visual.ln_post, clip.network.visual.proj
    effect = {}
    for layer, head, sv in places():
        v = torch.from_numpy(directions.arrays[f"L{layer}.vh"][head, sv].copy())
        effect[layer, head, sv] = float(
            directions.arrays[f"L{layer}.s"][head, sv] * (((v - v.mean()) * norm.weight) @ proj @ delta)
        )
    order = sorted(effect, key=lambda place: -abs(effect[place]))
    assert [(r["layer"], r["head"], r["sv"]) for r in rows] == order
    assert [r["effect"] for r in rows] == pytest.approx([effect[place] for place in order], abs=1e-5)
    assert {(r["value"], r["against"], r["n_value"], r["n_against"]) for r in rows} == {("water", "land", 2, 4)}
    assert sum(r["share"] for r in rows) == pytest.approx(1)
    rule = steps.EditRule(when=steps.When(top=3), multiply=0)
    made = steps.edit(ctx, clip=clip, directions=directions, effects=found, rules=[rule])
    assert {(r["layer"], r["head"], r["sv"]) for r in rows_of(made.edits)} == set(order[:3])
    bound = steps.EditRule(when=steps.When(effect_ge=abs(effect[order[1]]) - 1e-6), multiply=0.5)
    made = steps.edit(ctx, clip=clip, directions=directions, effects=found, rules=[bound])
    assert made.edits.num_rows == 2
    by_text = steps.attribute_effect(ctx, clip=clip, directions=directions, attribute="place",
                                     texts={"land": ["a field"], "water": ["a lake"], "air": ["the sky"]})  # fmt: skip
    assert {(r["value"], r["against"]) for r in rows_of(by_text.effects)} == {
        ("land", "rest"),
        ("water", "rest"),
        ("air", "rest"),
    }
    with pytest.raises(DataError, match="0 values of the attribute 'age'"):
        steps.attribute_effect(ctx, clip=clip, directions=directions, attribute="age",
                               features=embedded(clip, vectors.numpy(), names), images=images)  # fmt: skip


def write_adapter(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


def test_an_adapter_is_merged_compared_and_decomposed(clip, directions, ctx, tmp_path):
    a, b = torch.randn(2, D), torch.randn(D, 2)
    at = "base_model.model.vision_model.encoder.layers.2.self_attn.v_proj.lora_"
    made = steps.merge_adapter(
        ctx, clip=clip, adapter=write_adapter(tmp_path / "lora", {f"{at}A.weight": a, f"{at}B.weight": b})
    )
    tuned = load(made.checkpoint)
    name = "visual.transformer.resblocks.2.attn.in_proj_weight"
    old, new = clip.network.state_dict()[name], tuned.network.state_dict()[name]
    torch.testing.assert_close(new[2 * D :] - old[2 * D :], 2 * b @ a, atol=1e-5, rtol=1e-5)
    assert torch.equal(new[: 2 * D], old[: 2 * D])
    rows = rows_of(steps.compare(ctx, clip=clip, other=tuned, layers=[1, 2]).comparisons)
    same, moved = ([r for r in rows if r["layer"] == layer] for layer in (1, 2))
    assert all(
        r["cos"] == pytest.approx(1) and r["rel_delta"] < 1e-9 and r["gain_ratio"] == pytest.approx(1) for r in same
    )
    W, W2 = (torch.matmul(*vo_factors(model.network.visual, 2)[:2]) for model in (clip, tuned))
    assert moved[0]["rel_delta"] == pytest.approx(float((W2 - W)[0].norm() / W[0].norm()), rel=1e-4)
    concepts = told(directions)
    again = HeadConcepts({**concepts.model, "identity": tuned.identity}, {}, {}, concepts.codes, concepts.concepts)
    pairs = rows_of(
        steps.compare(ctx, clip=clip, other=tuned, layers=[1], concepts=concepts, other_concepts=again).comparisons
    )
    assert {r["jaccard"] for r in pairs} == {1.0}
    delta = steps.decompose(ctx, clip=tuned, minus=clip, layers=[2], image_mean="zero")
    u, s, vh = (delta.arrays[f"L2.{part}"] for part in ("u", "s", "vh"))
    np.testing.assert_allclose((u * s[:, None]) @ vh, W2 - W, atol=1e-4)
    with pytest.raises(DataError, match="the difference to"):
        steps.edit(
            ctx, clip=tuned, directions=delta, preset="spurious", judgements=judged(directions, lambda *place: 1)
        )
    half = {f"{at}A.weight": a}
    for tensors, config, words in (
        (half, {}, "both lora_A and lora_B"),
        ({**half, f"{at}B.weight": torch.zeros(D, 3)}, {}, "does not fit"),
        ({"base_model.model.visual.mlp.lora_A.weight": a}, {}, "no adapter of this model's attention"),
        ({**half, f"{at}B.weight": b}, {"use_dora": True}, "use_dora"),
        ({**half, f"{at}B.weight": b}, {"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({**half, f"{at}B.weight": b}, {"peft_type": "IA3"}, "not that of a LoRA adapter"),
    ):
        with pytest.raises(ModelRefused, match=words):
            steps.merge_adapter(ctx, clip=clip, adapter=write_adapter(tmp_path / "bad", tensors, **config))


def test_recall_pairs_safe_and_unsafe_by_their_name(clip, ctx):
    captions = {"1": ("a cat", "a wild cat"), "2": ("a dog", "a wild dog")}
    texts = {
        f"{n}/{side}": text for n, pair in captions.items() for side, text in zip(("safe", "unsafe"), pair, strict=True)
    }
    names = [*texts, "3/safe"]
    images = attributed(
        {name: {"safety": name.partition("/")[2], "caption": texts.get(name, "a tree")} for name in names}
    )
    safe = {n: pair[0] for n, pair in captions.items()}
    vectors = clip.encode_texts(
        [safe.get(name[0], "a tree") for name in names]
    )  # every picture lies at its safe caption
    features = embedded(clip, vectors, names)
    rows = rows_of(steps.recall(ctx, clip=clip, features=features, images=images, ks=[1, 2]).recall)
    found = {(r["setting"], r["k"]): (r["hits"], r["n"]) for r in rows}
    assert found["T->V", 1] == found["V->T", 1] == found["V*->TT*", 1] == (2, 2)
    assert all(n == 2 and 0 <= hits <= 2 for hits, n in found.values()) and len(found) == 12
    assert "1 pairs lack" in ctx.journal.messages[0]["text"]
    broken = vectors.copy()
    broken[1, 3] = np.nan
    with pytest.raises(DataError, match="contain NaN"):
        steps.recall(ctx, clip=clip, features=embedded(clip, broken, names), images=images)
    with pytest.raises(DataError, match="no pair of a safe and an unsafe"):
        steps.recall(ctx, clip=clip, features=features, images=images, split="val")
