"""What directions do on pictures: exact parts of what heads write, and the direction that a pasted pattern drives."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sith_clip import load_clip
from sith_towers import pictures, tokens_after, tower
from torch.nn.functional import layer_norm, normalize

from results.tables import arrow_table
from runner.artifacts import AttributedImages
from runner.context import local_context
from runner.data.sources import open_source
from runner.errors import DataError, ModelRefused
from runner.models.encoders.clip import load_local
from runner.nodes.classify.features import encoder_info, features_of
from runner.nodes.sith import weight_steps as steps
from runner.nodes.sith.activations import Activity, Directions, activity, activity_difference, no_sums
from runner.nodes.sith.listening import class_reads
from runner.nodes.sith.weights import HeadFactors, svd_of_product, vo_factors, write_factors

MARGIN = ["a photo of a landbird.", "a photo of a waterbird."]


def all_directions(visual, layers, heads, fold):
    svds = [svd_of_product(*vo_factors(visual, layer, fold)[:2]) for layer in layers]
    u, s = (torch.stack([getattr(svd, name)[heads] for svd in svds]) for name in ("u", "s"))
    return Directions(layers, heads, u, s, fold), torch.stack([svd.vh[heads] for svd in svds])


@pytest.mark.parametrize("fold", [True, False])
def test_coefficients_times_right_vectors_are_what_attention_writes(fold):
    visual, x = tower(3, layers=3), pictures(3)
    directions, vh = all_directions(visual, [2, 0], [0, 1, 2, 3], fold)
    found = activity(visual, x, directions)
    assert found.coefficients.shape == (3, 2, 4, 8)
    for at, layer in enumerate(directions.layers):
        block = visual.transformer.resblocks[layer]
        true = block.attention(block.ln_1(tokens_after(visual, x, layer)))[:, 0]
        ours = torch.einsum("nhr,hrd->nd", found.coefficients[:, at], vh[at]) + vo_factors(visual, layer, fold).bias
        if fold:  # folded weights write nothing along 1, which no later norm sees
            true, ours = (part - part.mean(-1, keepdim=True) for part in (true, ours))
        torch.testing.assert_close(ours, true, atol=1e-9, rtol=0)
    some, _ = all_directions(visual, [0], [3, 1], fold)
    torch.testing.assert_close(activity(visual, x, some).coefficients[:, 0], found.coefficients[:, 1, [3, 1]])


def test_the_scale_turns_what_is_written_into_the_unit_embedding():
    visual, x = tower(4), pictures(4)
    scale = activity(visual, x, all_directions(visual, [1], [0], True)[0]).scale
    cls, embeddings = tokens_after(visual, x, 2)[:, 0], visual(x)
    before = layer_norm(cls, (32,), visual.ln_post.weight, None, visual.ln_post.eps) @ visual.proj
    linear = ((cls - cls.mean(-1, keepdim=True)) * visual.ln_post.weight) @ visual.proj
    norms = embeddings.norm(dim=-1)
    torch.testing.assert_close(linear / scale[:, None], before / norms[:, None], atol=1e-9, rtol=0)


def test_half_precision_towers_are_read_in_float32_and_pooled_ones_refused():
    visual = tower(5, dtype=torch.float16)
    stream = tokens_after(tower(5), pictures(5), 1).float()
    assert class_reads(visual, 1, stream, fold_ln=False).dtype == torch.float32
    pooled = tower(6, pool_type="avg")
    with pytest.raises(ModelRefused, match="pools by 'avg'"):
        activity(pooled, pictures(6), all_directions(pooled, [0], [0], True)[0])


def test_sums_compare_within_strata_and_pool_the_other_values():
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(40, 1, 2, 3, generator=generator, dtype=torch.float64)
    scale = torch.rand(40, generator=generator, dtype=torch.float64) + 1
    strata, values = torch.arange(40) % 4, torch.arange(40) // 4 % 3
    strata[values == 2] = 3  # strata 0 to 2 lack the value 2
    sums = no_sums(4, 3, c.shape[1:])
    for some in (slice(0, 17), slice(17, 40)):
        sums.add(Activity(c[some], scale[some]), strata[some], values[some])
    for value in range(3):
        differences = [
            c[(strata == own) & (values == value)].mean(0) - c[(strata == own) & (values != value)].mean(0)
            for own in range(4)
            if ((strata == own) & (values == value)).any()
        ]
        wanted = torch.stack(differences).mean(0) / scale.mean()
        torch.testing.assert_close(activity_difference(sums, value), wanted)
    apart = no_sums(2, 2, c.shape[1:])
    apart.add(Activity(c[:2], scale[:2]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no class has pictures both"):
        activity_difference(apart, 1)


# --- a planted direction, from pictures to the edited weights ----------------------------------------------------------


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """48 noise pictures of two classes, half of each with a bright lower right quarter: name -> (class, place)."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    found = {}
    for number in range(48):
        pixels = rng.integers(60, 120, (32, 32, 3), dtype=np.uint8)
        pixels[:8, :8, number % 2] = 200  # the class
        if bright := number // 2 % 2:
            pixels[16:, 16:] = 255
        name = f"p{number:02}.png"
        (folder / name).write_bytes(png(pixels))
        found[name] = (number % 2, "water" if bright else "land")
    (folder / "broken.png").write_bytes(b"no picture")
    return open_source({"folder": str(folder)}), found


def attributed(source, found):
    info = {"dataset": "d", "classes": ["a", "b"], "licence": ""}
    rows = [
        {"dataset": "d", "split": "test", "sample_id": name, "source_id": source.source_id, "uri": name, "target": "ab"[c],
         "class_index": c, "thumbnail": None}
        for name, (c, _) in found.items()
    ]  # fmt: skip
    values = [{"dataset": "d", "sample_id": name, "attribute": "place", "value": place} for name, (_, place) in found.items()]  # fmt: skip
    about = [{"dataset": "d", "attributes": {"place": ["land", "water"]}, "class_attribute": None}]
    return AttributedImages([info], [source.spec], arrow_table("dataset_image", rows), about, arrow_table("dataset_attribute", values))  # fmt: skip


def pixels_of(clip, source, found):
    data = dict(source.read_many(list(found)))
    return np.stack([clip.prepare(Image.open(io.BytesIO(data[name])).convert("RGB")) for name in found])


def margins(clip, pixels):
    first, second = clip.encode_texts(MARGIN)
    return clip.encode_prepared(pixels) @ (first - second)


def basis(first, count, seed):
    """Orthonormal columns [32, count], all orthogonal to 1, the first ones spanning those of ``first`` [32, n]."""
    rest = torch.randn(32, count - first.shape[1], generator=torch.Generator().manual_seed(seed))
    columns = torch.cat([first, rest], 1)
    return torch.linalg.qr(columns - columns.mean(0))[0]


@pytest.fixture(scope="module")
def planted(tmp_path_factory, photos):
    """A CLIP in whose last block two heads write along the margin: head 1 where a quarter is bright, head 2, with a larger
    singular value, whatever reads the same with and without a bright quarter. Returns it and the first's place."""
    folder = tmp_path_factory.mktemp("planted") / "clip"
    clip = load_clip(folder)
    visual, (source, found) = clip.network.visual, photos
    stream = tokens_after(visual, torch.from_numpy(pixels_of(clip, source, found)), 1)
    bright = torch.tensor([place == "water" for _, place in found.values()])
    reads = class_reads(visual, 1, stream, fold_ln=True)
    constant, difference = reads.mean(0), reads[bright].mean(0) - reads[~bright].mean(0)
    seen = basis(torch.stack([constant[1], difference[1]], 1), 9, 3)[
        :, 1:
    ]  # what differs, without what is always there
    blind = basis(torch.stack([constant[2], difference[2]], 1), 10, 2)[:, 2:]
    first, second = torch.from_numpy(clip.encode_texts(MARGIN))
    V = basis((visual.ln_post.weight * (visual.proj @ (first - second)))[:, None], 8, 1)
    s = torch.tensor([4.0, 6.0, 5.0, 0.6, 0.5, 0.4, 0.3, 0.2])
    own = vo_factors(visual, 1)
    A, B = own.A.clone(), own.B.clone()
    A[1], B[1] = seen * s, V.T
    A[2], B[2] = blind * (2 * s.sort(descending=True).values), V.T
    state = write_factors(visual, {1: HeadFactors(A, B, own.bias)})
    file = folder / "open_clip_model.safetensors"
    save_file(load_file(file) | {f"visual.{name}": value for name, value in state.items()}, file)
    return load_local(folder, None, device="cpu", half=False), (1, 1, 2)


@pytest.fixture(scope="module")
def told(planted, photos, tmp_path_factory):
    """What the step takes: the model, its directions, features and images."""
    clip, (source, found), ctx = planted[0], photos, local_context(tmp_path_factory.mktemp("told"))
    images = attributed(source, found)
    rows = images.images.to_pylist()
    features = features_of(images.about, encoder_info(clip), rows, clip.encode_prepared(pixels_of(clip, source, found)))
    directions = steps.decompose(ctx, clip=clip, layers=[0, 1], image_mean="zero")
    return {"clip": clip, "directions": directions, "attribute": "place", "features": features, "images": images}


def top(effects):
    return next((r["layer"], r["head"], r["sv"]) for r in effects.effects.to_pylist())


def test_the_direction_that_a_bright_quarter_drives_is_found_on_pictures_and_taken_out(planted, photos, told, tmp_path):
    ctx, (clip, place), (source, found) = local_context(tmp_path), planted, photos
    by_weights = steps.attribute_effect(ctx, **told, margin=MARGIN)
    on_pictures = steps.attribute_effect(ctx, **told, margin=MARGIN, evidence="activations")
    assert top(by_weights) == (1, 2, 0) and top(on_pictures) == place
    rows = on_pictures.effects.to_pylist()
    assert {(r["evidence"], r["margin"], r["n_value"], r["n_against"]) for r in rows} == {("activations", " - ".join(MARGIN), 24, 24)}  # fmt: skip
    rule = steps.EditRule(when=steps.When(top=1), multiply=0)
    made = steps.edit(ctx, clip=clip, directions=told["directions"], effects=on_pictures, rules=[rule])
    edited = load_local(made.checkpoint, None, device="cpu", half=False)
    bright = np.array([own == "water" for _, own in found.values()])
    pixels = pixels_of(clip, source, found)
    gaps = [float(m[bright].mean() - m[~bright].mean()) for m in (margins(clip, pixels), margins(edited, pixels))]
    assert rows[0]["effect"] == pytest.approx(gaps[0] - gaps[1], rel=0.2)  # the first order of what the edit takes away
    assert abs(gaps[1]) < 0.1 * abs(gaps[0])


def test_effects_on_pictures_by_hand(told, photos, tmp_path):
    clip, (source, found) = told["clip"], photos
    rows = steps.attribute_effect(local_context(tmp_path), **told, evidence="activations").effects.to_pylist()
    visual, pixels = clip.network.visual, torch.from_numpy(pixels_of(clip, source, found))
    arrays, names = told["directions"].arrays, list(found)
    place = {name: at for at, name in enumerate(names)}
    vectors = torch.from_numpy(told["features"].features["features"])
    cells = {(c, v): [place[n] for n in names if found[n] == (c, v)] for c in (0, 1) for v in ("land", "water")}
    between = lambda x: sum(x[cells[c, "water"]].mean(0) - x[cells[c, "land"]].mean(0) for c in (0, 1)) / 2  # noqa: E731
    cls = tokens_after(visual, pixels, 2)[:, 0]
    scale = (cls.var(-1, correction=0) + 1e-5).sqrt() * visual(pixels).norm(dim=-1)
    for row in rows[:5] + rows[-5:]:
        u, vh = (torch.from_numpy(arrays[f"L{row['layer']}.{n}"][row["head"]].copy()) for n in ("u", "vh"))
        reads = class_reads(visual, row["layer"], tokens_after(visual, pixels, row["layer"]), fold_ln=True)
        c = row["sigma"] * reads[:, row["head"]] @ u[:, row["sv"]]
        v = vh[row["sv"]]
        q = ((v - v.mean()) * visual.ln_post.weight) @ visual.proj
        wanted = between(c) / scale.mean() * (q @ normalize(between(vectors), dim=0))
        assert row["effect"] == pytest.approx(float(wanted), rel=1e-3, abs=1e-6)
    assert {(r["margin"], r["value"], r["against"]) for r in rows} == {(None, "water", "land")}


def test_lost_pictures_are_said_and_wrong_questions_refused(told, photos, tmp_path):
    ctx, images = local_context(tmp_path), told["images"]
    rows = images.images.to_pylist()
    rows[0]["uri"] = "broken.png"
    lost = dataclasses.replace(images, images=arrow_table("dataset_image", rows))
    found = steps.attribute_effect(ctx, **told | {"images": lost}, evidence="activations")
    assert found.effects.to_pylist()[0]["n_against"] == 23
    assert "1 of 48 pictures cannot be read" in ctx.journal.messages[0]["text"]
    short = dataclasses.replace(images, images=arrow_table("dataset_image", rows[1:]))
    texts = {"texts": {"land": ["a field"], "water": ["a lake"]}, "features": None, "images": None}
    for given, words in (
        ({"images": short}, "has features and is not among the images"),
        (texts, "goes by pictures"),
        ({"margin": MARGIN[:1] * 2}, "embeds both texts alike"),
    ):
        with pytest.raises(DataError, match=words):
            steps.attribute_effect(ctx, **told | given, evidence="activations")
    by_text = steps.attribute_effect(ctx, **told | texts, margin=["one\nline", "two"]).effects.to_pylist()
    assert {(r["evidence"], r["margin"]) for r in by_text} == {("texts", "one line - two")}


def test_means_of_changed_directions_stay_and_only_what_pushes_along_is_ranked(planted, photos, told, tmp_path):
    """With keep_means the class token gets on average, from the first edited block, what it got before."""
    ctx, (clip, _), (source, found) = local_context(tmp_path), planted, photos
    effects = steps.attribute_effect(ctx, **told, margin=MARGIN, evidence="activations")
    water = [row for row in effects.effects.to_pylist() if row["value"] == "water"]
    whole = sum(row["effect"] for row in water)
    pixels = torch.from_numpy(pixels_of(clip, source, found))
    means = []
    for name, keep in (("kept", True), ("lost", False)):
        rule = steps.EditRule(when=steps.When(top_along=3), multiply=0)
        own = local_context(tmp_path / name)
        made = steps.edit(own, clip=clip, directions=told["directions"], effects=effects, rules=[rule], keep_means=keep)
        changed = {(r["layer"], r["head"], r["sv"]) for r in made.edits.to_pylist() if r["multiplier"] != 1}
        assert len(changed) == 3
        assert all(r["effect"] * whole > 0 for r in water if (r["layer"], r["head"], r["sv"]) in changed)
        edited = load_local(made.checkpoint, None, device="cpu", half=False)
        first = min(layer for layer, _, _ in changed)
        added = [attention_out(model.network.visual, pixels, first)[:, 0].mean(0) for model in (clip, edited)]
        difference = added[0] - added[1]
        means.append(float((difference - difference.mean()).abs().max()))  # folding drops what lies along ones, unseen
    assert means[0] < 1e-4 and means[1] > 1e-3


def attention_out(visual, pixels, layer):
    """What the attention of a block adds to the tokens."""
    heard = []
    handle = visual.transformer.resblocks[layer].attn.register_forward_hook(lambda _m, _i, out: heard.append(out[0]))
    with torch.no_grad():
        visual(pixels)
    handle.remove()
    return heard[0]
