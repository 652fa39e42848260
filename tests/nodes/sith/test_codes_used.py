"""What edits and comparisons make of codes, judgements and cut ranks, on a very small CLIP."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from sith_clip import load_clip
from sith_towers import tower
from torch.nn.functional import normalize

from results.tables import arrow_table
from runner.artifacts import HeadJudgements
from runner.context import local_context
from runner.errors import DataError
from runner.models.encoders.clip import load_local
from runner.nodes.sith.concept_steps import dictionary, explain
from runner.nodes.sith.decomposing import head_svds, reading_of
from runner.nodes.sith.dictionary_specs import ConceptList
from runner.nodes.sith.edit import Rule
from runner.nodes.sith.editing import decide
from runner.nodes.sith.weight_steps import AttributeEffects, EditRule, TaskRule, When, compare, decompose, edit
from runner.nodes.sith.weights import svd_of_product, to_joint, vo_factors, write_back

WORDS = [f"{a} {b}" for a in ("red", "old", "wet", "tall") for b in ("dog", "house", "sea", "tree", "wine")]
H, R = 4, 8
PLACE = ("layer", "head", "sv")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model, its dictionary, its directions."""
    root = tmp_path_factory.mktemp("made")
    ctx, clip = local_context(root / "work"), load_clip(root / "clip")
    with torch.no_grad():
        clip.network.visual.ln_post.bias.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    words = dictionary(ctx, clip=clip, concepts=ConceptList(list=WORDS))
    return clip, words, decompose(ctx, clip=clip, layers=[0, 1], image_mean="zero", side="both")


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work")


def place_of(row):
    return tuple(row[name] for name in PLACE)


def judged(directions, score, task="background"):
    rows = [
        {"task": task, "layer": layer, "head": head, "sv": sv, "side": "right", "sign": 1, "score": None if isinstance(value, str) else value,
         "status": value if isinstance(value, str) else "scored", "attempts": 1, "judge": "j", "prompt_hash": "p", "cached": False}
        for layer, head, sv in itertools.product((0, 1), range(H), range(R)) for value in [score(layer, head, sv)]
    ]  # fmt: skip
    return HeadJudgements(directions.model, task, "j", arrow_table("sith_judgement", rows))


def emptied(concepts, place):
    """The same with all coefficients of one direction at 0."""
    rows = [row | {"coef": 0.0} if place_of(row) == place else row for row in concepts.concepts.to_pylist()]
    return dataclasses.replace(concepts, concepts=arrow_table("sith_concept", rows))


# --- explaining -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_negated_vector_is_explained_where_it_lies_itself(side, ctx, made):
    clip, words, directions = made
    found = explain(ctx, directions=directions, dictionary=words, method="top_k", k=1, signs="both", side=side)
    unit = normalize(torch.from_numpy(np.load(words.index / "embeddings.npy")))
    atoms = normalize(unit - unit.mean(0))
    vectors = torch.from_numpy(directions.arrays["L1.vh" if side == "right" else "L1.u"].copy())
    vectors = vectors if side == "right" else vectors.mT
    for sign in (1, -1):
        joint = to_joint(sign * vectors, clip.network.visual, None)
        rows = [row for row in found.concepts.to_pylist() if (row["layer"], row["sign"]) == (1, sign)]
        assert [row["atom"] for row in rows] == (joint.flatten(0, 1) @ atoms.T).argmax(1).tolist()
    assert ((joint + to_joint(vectors, clip.network.visual, None)).norm(dim=-1) > 0.1).any()


# --- judgements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "task", "fits"), [
    ("spurious", "background", True), ("spurious", "concept_match", True), ("spurious", "coherence", False),
    ("spurious", "safety", False), ("nsfw", "safety", True), ("nsfw", "background", False), (None, "coherence", True),
])  # fmt: skip
def test_a_preset_goes_by_what_was_rated_for_it(preset, task, fits, ctx, made):
    clip, _, directions = made
    rules = None if preset else [EditRule(when=When(score_ge=5), multiply=0)]
    given = {"clip": clip, "directions": directions, "preset": preset, "rules": rules, "dry_run": True}
    scores = judged(directions, lambda *place: 5 if place == (1, 2, 3) else 1, task)
    if fits:
        assert [place_of(row) for row in edit(ctx, **given, judgements=scores).edits.to_pylist()] == [(1, 2, 3)]
    else:
        with pytest.raises(DataError, match=f"the judge rated {task}"):
            edit(ctx, **given, judgements=scores)


def test_judgements_of_another_model_are_refused(ctx, made):
    clip, _, directions = made
    other = dataclasses.replace(directions, model=directions.model | {"identity": "another"})
    with pytest.raises(DataError, match="judgements was made from another model"):
        edit(ctx, clip=clip, directions=directions, preset="spurious", judgements=judged(other, lambda *place: 5))


def test_empty_lists_do_not_hide_those_without_a_score(ctx, made):
    clip, _, directions = made
    scores = judged(directions, lambda layer, head, sv: ["unscored", 5][sv] if sv < 2 else "empty")
    given = {"clip": clip, "directions": directions, "preset": "spurious", "judgements": scores, "dry_run": True}
    with pytest.raises(DataError, match="8 of 16 concept lists"):
        edit(ctx, **given, max_unscored=0.49)
    assert edit(ctx, **given, max_unscored=0.5).summary["changed"] == 8


def test_a_limit_a_head_takes_matches_before_scores_and_scores_before_effects():
    nan = float("nan")
    evidence = {"match": torch.tensor([[nan, 0.1, nan, 0.3]]), "score": torch.tensor([[5.0, 5, 4, 1]]),
                "effect": torch.tensor([[90.0, 80, 70, 60]])}  # fmt: skip
    rules = [Rule(0.0, ge=0, of="match"), Rule(0.0, ge=5), Rule(0.0, ge=0, of="effect")]
    for n, kept in ((1, [3]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])):
        found = decide(evidence, rules, lambda place: "", n).multipliers
        assert (found[0] == 0).nonzero()[:, 0].tolist() == kept


# --- codes ------------------------------------------------------------------------------------------------------------


def test_a_reconstruction_is_made_of_all_terms_and_leaves_what_was_not_explained(ctx, made):
    clip, words, directions = made
    told = explain(ctx, directions=directions, dictionary=words, method="omp", k=4, top_singular=2)
    told = emptied(told, (1, 0, 1))
    assert any(row["coef"] < 0 for row in told.concepts.to_pylist())
    unit = normalize(torch.from_numpy(np.load(words.index / "embeddings.npy")).double())
    atoms, back = normalize(unit - unit.mean(0)), torch.linalg.pinv(clip.network.visual.proj.double())
    right = torch.from_numpy(directions.arrays["L1.vh"].copy()).double()
    right[:, :2] = 0
    for row in told.concepts.to_pylist():
        if row["layer"] == 1:
            right[row["head"], row["sv"]] += row["coef"] * atoms[row["atom"]] @ back
    right[:, :2] = normalize(right[:, :2], dim=-1)
    scaled = torch.from_numpy(directions.arrays["L1.u"] * directions.arrays["L1.s"][:, None])
    given = {"clip": clip, "preset": "reconstruction", "concepts": told, "dictionary": words}
    found = edit(ctx, directions=directions, **given)
    A, B, _ = vo_factors(load_local(found.checkpoint, None, device="cpu", half=False).network.visual, 1, False)
    torch.testing.assert_close((A @ B).detach().double(), scaled.double() @ right, atol=1e-4, rtol=1e-4)
    assert (found.summary["coded"], found.summary["emptied"]) == (2 * H * 2 - 1, 1)

    turned = {name: -value if name.endswith((".u", ".vh")) else value for name, value in directions.arrays.items()}
    found = edit(local_context(ctx.folder("b")), directions=dataclasses.replace(directions, arrays=turned), **given)
    right[:, :2] *= -1  # codes are of the vectors that the directions hold, whatever sign these weights would give
    A, B, _ = vo_factors(load_local(found.checkpoint, None, device="cpu", half=False).network.visual, 1, False)
    torch.testing.assert_close((A @ B).detach().double(), scaled.double() @ right, atol=1e-4, rtol=1e-4)


def test_a_reconstruction_refuses_what_it_does_not_go_by(ctx, made):
    clip, words, directions = made
    told = explain(ctx, directions=directions, dictionary=words, k=2)
    given = {"clip": clip, "preset": "reconstruction", "concepts": told, "dictionary": words}
    effects = AttributeEffects(directions.model, arrow_table("sith_effect", []))
    for more in ({"truncate": True}, {"top_n_per_head": 1}, {"judgements": judged(directions, lambda *place: 5)}, {"effects": effects}):  # fmt: skip
        with pytest.raises(DataError, match=f"does not go by {next(iter(more))}"):
            edit(ctx, directions=directions, **given, **more)
    moved = directions.arrays | {"L1.s": directions.arrays["L1.s"] * 1.1}
    with pytest.raises(DataError, match="layer 1: these weights give other singular vectors"):
        edit(ctx, directions=dataclasses.replace(directions, arrays=moved), **given)


def test_the_task_rule_counts_terms_of_either_sign_and_takes_an_empty_code_for_far(ctx, made):
    clip, words, directions = made
    told = explain(ctx, directions=directions, dictionary=words, method="omp", k=3, top_singular=2)
    told = emptied(told, (1, 0, 0))
    task = TaskRule(classes=["dog"], class_k=len(WORDS), filter_classes=False, offset=0.9, minimum=-9)
    found = edit(
        ctx, clip=clip, directions=directions, preset="task", task=task, concepts=told, dictionary=words, dry_run=True
    )
    multipliers = {place_of(row): row["multiplier"] for row in found.edits.to_pylist()}
    assert multipliers[1, 0, 0] == pytest.approx(0.9) and all(sv < 2 for _, _, sv in multipliers)
    from runner.nodes.sith.coding import comp

    g = normalize(torch.from_numpy(np.load(words.index / "embeddings.npy")))
    code = comp(torch.from_numpy(clip.encode_texts(["dog"])), g, len(WORDS), 0.3)
    nearest = (g @ g[code.support[code.coefficients > 0]].T).amax(1)
    for place in itertools.product((0, 1), range(H), range(2)):
        own = [row for row in told.concepts.to_pylist() if place_of(row) == place]
        relevance = sum(row["coef"] * float(nearest[row["atom"]]) for row in own)
        assert multipliers[place] == pytest.approx(relevance + 0.9, abs=1e-4)


def test_only_pairs_of_explained_directions_have_a_likeness(ctx, made):
    clip, words, directions = made
    few, all_of_them = (explain(ctx, directions=directions, dictionary=words, k=2, top_singular=n) for n in (2, None))
    rows = compare(ctx, clip=clip, other=clip, layers=[1], concepts=emptied(few, (1, 0, 1)), other_concepts=all_of_them)
    found = {place_of(row | {"sv": row["sv_a"]}): row["jaccard"] for row in rows.comparisons.to_pylist()}
    assert all((value is None) == (sv >= 2) for (_, _, sv), value in found.items())
    assert found[1, 0, 0] == 1 and found[1, 0, 1] == 0


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_what_is_said_of_a_head_does_not_depend_on_the_rank(ctx, made, tmp_path):
    clip, _, directions = made
    other = load_clip(tmp_path / "other", seed=3)
    few, full = (
        [row for row in compare(ctx, clip=clip, other=other, layers=[1], rank=rank).comparisons.to_pylist() if row["sv_a"] < 2]
        for rank in (2, None)
    )  # fmt: skip
    assert few == full
    cut = decompose(ctx, clip=clip, layers=[0, 1], image_mean="zero", rank=2)
    for name in ("spectral_norm", "fro_norm", "eff_rank"):
        assert cut.heads[name].to_pylist() == pytest.approx(directions.heads[name].to_pylist())
    shares = [row["sigma_share"] for row in directions.directions.to_pylist() if row["side"] == "right" and row["sv"] < 2]  # fmt: skip
    assert cut.directions["sigma_share"].to_pylist() == pytest.approx(shares)
    rule = [EditRule(when=When(score_ge=5), multiply=0)]
    scores = arrow_table("sith_judgement", [r for r in judged(cut, lambda *p: 5).judgements.to_pylist() if r["sv"] < 2])
    scores = dataclasses.replace(judged(cut, lambda *place: 5), judgements=scores)
    found = edit(ctx, clip=clip, directions=cut, rules=rule, judgements=scores, dry_run=True)
    energy = np.stack([directions.arrays[f"L{layer}.s"] for layer in (0, 1)]).astype(float) ** 2
    assert found.summary["energy_share_changed"] == pytest.approx(energy[..., :2].sum() / energy.sum())


def test_a_vector_that_equals_the_next_beyond_the_rank_is_flagged(ctx, made):
    clip, _, directions = made
    s, same = torch.from_numpy(directions.arrays["L1.s"].copy()), copy.copy(clip)
    same.network = copy.deepcopy(clip.network)
    m = torch.ones(H, R)
    m[:, 2] = s[:, 1] / s[:, 2]
    same.network.visual.load_state_dict(write_back(clip.network.visual, {1: m}))
    cut = decompose(ctx, clip=same, layers=[1], image_mean="zero", rank=2)
    assert [row["near_degenerate"] for row in cut.directions.to_pylist()] == [False, True] * H


@pytest.mark.parametrize("size", [1e-3, 1e-5])
def test_a_small_difference_of_two_models_is_not_that_of_roundings(size):
    base = tower(5, width=64, dtype=torch.float32)
    tuned, width = copy.deepcopy(base), 64
    weight = tuned.transformer.resblocks[1].attn.in_proj_weight.data[2 * width :]
    change = torch.randn(width, 2) @ torch.randn(2, width)
    weight += size * change / change.norm() * weight.norm()
    found = head_svds(tuned, 1, reading_of(base, [1], "all", True, None, "right", "full", False), base)
    exact = [vo_factors(copy.deepcopy(model).double(), 1) for model in (base, tuned)]
    wanted = torch.linalg.svd(exact[1].A @ exact[1].B - exact[0].A @ exact[0].B)
    assert float((found.vh[:, :2].double() * wanted.Vh[:, :2]).sum(-1).abs().min()) > 1 - 1e-6
    torch.testing.assert_close(found.s[:, :2].double(), wanted.S[:, :2], rtol=1e-6, atol=0)
    none = head_svds(base, 1, reading_of(base, [1], "all", True, None, "right", "full", False), base)
    assert float(none.s.max()) < 1e-12 * float(svd_of_product(exact[0].A, exact[0].B).s.max())
