import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sith_towers import explicit, like, pictures, tokens_after, tower, written
from torch import nn

from runner.errors import DataError, ModelRefused
from runner.nodes.sith.coding import comp
from runner.nodes.sith.tower import layer_indices, plain_tower
from runner.nodes.sith.weights import (
    HeadFactors,
    near_degenerate,
    svd_of_product,
    to_joint,
    unit,
    vo_factors,
    write_back,
    write_factors,
)

SEEDS = st.integers(0, 10_000)
SHAPES = st.sampled_from([{"width": 32, "heads": 4, "layers": 2}, {"width": 32, "heads": 2, "layers": 3}, {"width": 48, "heads": 3, "layers": 2}])  # fmt: skip
few = settings(max_examples=5, deadline=None)


def matrices(visual, layer, fold):
    A, B, bias = vo_factors(visual, layer, fold)
    return A @ B, bias


@few
@given(SEEDS, SHAPES, st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_explicit_matrices_give_the_model_again(seed, shape, fold, dtype):
    visual, x = tower(seed, dtype=dtype, **shape), pictures(seed, dtype=dtype)
    found = {layer: matrices(visual, layer, fold) for layer in range(shape["layers"])}
    W, b = ({layer: pair[i] for layer, pair in found.items()} for i in (0, 1))
    wanted = visual(x)
    tolerance = (1e-10 if dtype == torch.float64 else 3e-5) * float(wanted.abs().max())
    assert float((explicit(visual, x, W, b, folded=fold) - wanted).abs().max()) < tolerance
    assert all(matrix.dtype == dtype for matrix in W.values())


@few
@given(SEEDS, SHAPES)
def test_folded_matrices_neither_read_nor_write_the_mean(seed, shape):
    visual = tower(seed, **shape)
    W, _ = matrices(visual, -1, True)
    ones = torch.ones(shape["width"], dtype=torch.float64)
    assert float((ones @ W).abs().max()) < 1e-12 and float((W @ ones).abs().max()) < 1e-12
    unfolded, _ = matrices(visual, -1, False)
    assert float((ones @ unfolded).abs().max()) > 1e-3


@few
@given(SEEDS, SHAPES, st.sampled_from([torch.float32, torch.float64]))
def test_the_qr_route_is_the_full_svd(seed, shape, dtype):
    A, B, _ = vo_factors(tower(seed, dtype=dtype, **shape), 0)
    svd, W, r = svd_of_product(A, B), A @ B, A.shape[-1]
    _, s, vh = torch.linalg.svd(W.double())
    assert float((s[:, r:] / s[:, :1]).max()) < 1e-6  # rank at most r
    assert float(((svd.s - s[:, :r]).abs() / s[:, :1]).max()) < (3e-6 if dtype == torch.float32 else 1e-12)
    apart = torch.minimum(-s[:, :r].diff(dim=1, append=s[:, r - 1 : r] * 0), s[:, :1]) > 1e-2 * s[:, :1]
    sure = apart & torch.cat([torch.ones_like(apart[:, :1]), apart[:, :-1]], 1)
    cosine = (svd.vh.double() * vh[:, :r]).sum(-1).abs()
    assert bool((cosine[sure] > 1 - 1e-5).all()) and bool(sure.any())
    assert float(((svd.u * svd.s[:, None]) @ svd.vh - W).abs().max()) < 1e-5 * float(W.abs().max())
    largest = svd.u.gather(-2, svd.u.abs().argmax(-2, keepdim=True))
    assert bool((largest > 0).all())


def test_a_rank_deficient_product_has_zeros_and_orthonormal_vectors():
    A, B = torch.zeros(2, 10, 4), torch.randn(2, 4, 10)
    A[:, :, 0] = torch.randn(2, 10)
    svd = svd_of_product(A, B)
    assert bool((svd.s[:, 1:] < 1e-6).all())
    assert float((svd.u.transpose(-1, -2) @ svd.u - torch.eye(4)).abs().max()) < 1e-5
    assert near_degenerate(svd.s).tolist() == [[False, True, True, True]] * 2


def test_neighbours_within_one_in_ten_thousand_are_flagged():
    s = torch.tensor([[5.0, 3.0, 3.0002, 1.0]]).sort(descending=True).values
    assert near_degenerate(s).tolist() == [[False, True, True, False]]
    assert not near_degenerate(torch.tensor([5.0, 4.0, 3.0])).any()


# --- edited weights ----------------------------------------------------------------------------------------------------


@few
@given(SEEDS, SHAPES, st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_an_edited_state_dict_is_the_explicit_form(seed, shape, fold, dtype):
    visual, x = tower(seed, dtype=dtype, **shape), pictures(seed, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    edits, W, b = {}, {}, {}
    for layer in range(shape["layers"]):
        A, B, b[layer] = vo_factors(visual, layer, fold)
        u, s, vh = svd_of_product(A, B)
        m = torch.randint(-1, 3, s.shape, generator=generator) + torch.rand(s.shape, generator=generator)
        m[:, 0] = 0
        edits[layer], W[layer] = m, (u * (s * m)[:, None]) @ vh
    stock = like(visual, write_back(visual, edits, fold), **shape)
    wanted = explicit(visual, x, W, b, folded=fold)
    tolerance = (1e-9 if dtype == torch.float64 else 5e-5) * float(wanted.abs().max())
    assert float((stock(x) - wanted).abs().max()) < tolerance
    assert float((stock(x) - visual(x)).abs().max()) > 1e-3 * float(wanted.abs().max())  # the edit is seen


def edited(visual, m, layer=0, **shape):
    return like(visual, write_back(visual, {layer: m}), **shape)


def test_ones_change_nothing_zeros_leave_the_bias_and_signs_undo_themselves():
    visual, x = tower(3), pictures(3)
    ones, block = torch.ones(4, 8), visual.transformer.resblocks[0]
    assert float((edited(visual, ones)(x) - visual(x)).abs().max()) < 1e-10
    inside = visual._embeds(x)
    silent = edited(visual, 0 * ones).transformer.resblocks[0]
    bias = vo_factors(visual, 0).bias
    assert float((silent.attention(silent.ln_1(inside)) - bias).abs().max()) < 1e-12
    turned = edited(visual, -ones)
    assert float((turned(x) - visual(x)).abs().max()) > 1e-3
    assert float((edited(turned, -ones)(x) - visual(x)).abs().max()) < 1e-10
    assert block.ln_1.weight.std() > 0  # and the original is left alone


@few
@given(SEEDS)
def test_an_edit_and_its_inverse_restore_the_model(seed):
    visual, x = tower(seed), pictures(seed)
    m = torch.rand(4, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 0.2
    s = svd_of_product(*vo_factors(visual, 1)[:2]).s
    back = (1 / m).gather(1, (s * m).argsort(dim=1, descending=True))  # the edited values come in another order
    assert float((edited(edited(visual, m, 1), back, 1)(x) - visual(x)).abs().max()) < 1e-7


def test_an_edit_leaves_earlier_blocks_alone():
    visual, x = tower(4, layers=3), pictures(4)
    other = edited(visual, torch.zeros(4, 8), 2, layers=3)
    assert torch.equal(tokens_after(other, x, 2), tokens_after(visual, x, 2))
    assert not torch.allclose(tokens_after(other, x, 3), tokens_after(visual, x, 3))


def test_directions_beyond_the_multipliers_stay_unless_truncated():
    visual, x = tower(5), pictures(5)
    short = torch.ones(4, 3)
    assert float((like(visual, write_back(visual, {0: short}))(x) - visual(x)).abs().max()) < 1e-10
    full = torch.ones(4, 8)
    full[:, 3:] = 0
    cut = like(visual, write_back(visual, {0: short}, truncate=True))(x)
    assert float((cut - edited(visual, full)(x)).abs().max()) < 1e-12
    assert float((cut - visual(x)).abs().max()) > 1e-4


@pytest.mark.parametrize("m", [torch.ones(4, 9), torch.ones(3, 8), torch.ones(32), torch.full((4, 8), math.nan)])
def test_multipliers_that_do_not_fit_are_refused(m):
    with pytest.raises(DataError, match="multipliers"):
        write_back(tower(), {0: m})


def test_half_precision_becomes_float32():
    half = tower(1, dtype=torch.float16)
    assert vo_factors(half, 0).A.dtype == torch.float32
    assert {value.dtype for value in write_back(half, {0: torch.ones(4, 8)}).values()} == {torch.float32}


def test_layer_scale_is_part_of_what_a_head_writes():
    visual, x = tower(6, ls_init_value=0.1), pictures(6)
    for block in visual.transformer.resblocks:
        block.ls_1.gamma.data = torch.rand(32, dtype=torch.float64) + 0.5
    other = tower(98, ls_init_value=0.1)
    other.load_state_dict(write_back(visual, {0: torch.ones(4, 8), 1: torch.ones(4, 8)}))
    assert float((other(x) - visual(x)).abs().max()) < 1e-10


# --- the joint space, and a planted direction --------------------------------------------------------------------------


def test_the_joint_space_by_hand():
    visual = tower(7)
    v = torch.randn(5, 32, dtype=torch.float64)
    mu = 0.1 * torch.randn(12, dtype=torch.float64)

    def by_hand(v, beta=visual.ln_post.bias):
        normed = (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt() * visual.ln_post.weight + beta
        return (normed @ visual.proj) / (normed @ visual.proj).norm()

    for row, found in zip(v, to_joint(v, visual, mu), strict=True):
        p = by_hand(row) - mu
        assert torch.allclose(found, p / p.norm(), atol=1e-12)
    assert torch.allclose(to_joint(v[:1], visual, mu, centre=False)[0], by_hand(v[0]), atol=1e-12)
    assert torch.allclose(to_joint(v[:1], visual, None, ln_post="no_bias")[0], by_hand(v[0], 0), atol=1e-12)
    assert torch.allclose(to_joint(-v, visual, None, ln_post="no_bias"), -to_joint(v, visual, None, ln_post="no_bias"))
    linear = (v[0] * visual.ln_post.weight) @ visual.proj
    assert torch.allclose(to_joint(v[:1], visual, None, ln_post="linear")[0], linear / linear.norm(), atol=1e-12)
    with pytest.raises(DataError, match="image mean has shape"):
        to_joint(v, visual, mu[:5])


def test_a_tower_without_projection_reads_the_stream_itself():
    visual = tower(8)
    visual.proj = None
    assert plain_tower(visual).dim == 32
    v = torch.randn(2, 32, dtype=torch.float64)
    linear = v * visual.ln_post.weight
    assert torch.allclose(to_joint(v, visual, None, ln_post="linear"), linear / linear.norm(dim=1, keepdim=True))


@few
@given(SEEDS)
def test_a_planted_direction_is_found_and_removed_alone(seed):
    D, d, r = 32, 12, 8
    generator = torch.Generator().manual_seed(seed)
    visual = tower(seed)
    proj = torch.randn(D, d, generator=generator, dtype=torch.float64)
    visual.proj.data = proj - proj.mean(0)  # zero column sums
    visual.ln_post.weight.data[:], visual.ln_post.bias.data[:] = 1, 0
    atom = torch.randn(d, generator=generator, dtype=torch.float64)
    atom = atom / atom.norm()
    first = atom @ torch.linalg.pinv(visual.proj)
    rest = torch.randn(r - 1, D, generator=generator, dtype=torch.float64)
    V = torch.linalg.qr(torch.cat([first[None], rest - rest.mean(1, keepdim=True)]).T)[0].T
    U = torch.linalg.qr((x := torch.randn(D, r, generator=generator, dtype=torch.float64)) - x.mean(0))[0]
    s = torch.tensor([10.0, *torch.linspace(3, 1, r - 1)], dtype=torch.float64)
    own = vo_factors(visual, 1)
    A, B = own.A.clone(), own.B.clone()
    A[2], B[2] = U * s, V
    visual.load_state_dict(write_factors(visual, {1: HeadFactors(A, B, own.bias)}))
    svd = svd_of_product(*vo_factors(visual, 1)[:2])
    assert torch.allclose(svd.s[2], s, rtol=1e-9)
    sign = torch.sign(svd.vh[2, 0] @ first)
    joint = to_joint(sign * svd.vh[2, 0], visual, torch.zeros(d))
    assert torch.allclose(joint, atom, atol=1e-6)
    others = torch.randn(60, d, generator=generator, dtype=torch.float64)
    code = comp(joint[None].float(), unit(torch.cat([others, atom[None]])).float(), 3, 0.3)
    assert int(code.support[0, 0]) == 60 and torch.allclose(code.coefficients[0], torch.eye(3)[0], atol=1e-5)
    m = torch.ones(4, r)
    m[2, 0] = 0
    other, inside = edited(visual, m, 1), tokens_after(visual, pictures(seed), 1)
    component = written(visual.transformer.resblocks[1], inside, A @ B, folded=True)[:, 2] @ svd.vh[2, 0]
    before, after = (block.attention(block.ln_1(inside)) for block in (visual.transformer.resblocks[1], other.transformer.resblocks[1]))  # fmt: skip
    assert torch.allclose(before - after, component[..., None] * svd.vh[2, 0], atol=1e-9)


# --- refusals ----------------------------------------------------------------------------------------------------------


def test_other_towers_are_refused_with_the_reason():
    with pytest.raises(ModelRefused, match="not a plain vision transformer"):
        plain_tower(nn.Conv2d(3, 3, 3))
    with pytest.raises(ModelRefused, match="pools by attention"):
        plain_tower(tower(attentional_pool=True, attn_pooler_heads=4))
    with pytest.raises(ModelRefused, match="attention is a Attention"):
        plain_tower(tower(block_type="custom"))
    for change, words in (
        (
            lambda block: setattr(block, "attn", nn.MultiheadAttention(32, 4, kdim=16, batch_first=True)),
            "given separately",
        ),
        (lambda block: setattr(block, "attn", nn.MultiheadAttention(32, 4, add_bias_kv=True)), "extra key"),
        (lambda block: setattr(block, "ln_1", nn.Identity()), "not a LayerNorm"),
    ):
        visual = tower()
        change(visual.transformer.resblocks[1])
        with pytest.raises(ModelRefused, match=words) as error:
            vo_factors(visual, 0)
        assert "block 1" in error.value.message
    assert "pools by 'avg'" in plain_tower(tower(pool_type="avg")).notes[0]
    assert plain_tower(tower()).notes == ()


def test_attention_without_bias_is_read_and_only_edited_where_its_constant_is_zero():
    visual, x = tower(9), pictures(9)
    for block in visual.transformer.resblocks:
        old, block.attn = block.attn, nn.MultiheadAttention(32, 4, bias=False, batch_first=True, dtype=torch.float64)
        block.attn.in_proj_weight.data, block.attn.out_proj.weight.data = old.in_proj_weight, old.out_proj.weight
    visual.eval().requires_grad_(False)
    assert float(vo_factors(visual, 0, False).bias.abs().max()) == 0
    with pytest.raises(ModelRefused, match="no bias"):
        write_back(visual, {0: torch.ones(4, 8)})
    before = visual(x)
    visual.load_state_dict(write_back(visual, {0: torch.ones(4, 8)}, False))
    assert float((visual(x) - before).abs().max()) < 1e-10


@pytest.mark.parametrize(("layers", "words"), [([0, 4], "4 given"), ([-5], "-5 given"), ([], "none given"), ([3, -1], "named twice")])  # fmt: skip
def test_layers_out_of_range_or_repeated_are_refused(layers, words):
    with pytest.raises(DataError, match=words):
        layer_indices(layers, 4)
    assert layer_indices([-1, 0, 2], 4) == [3, 0, 2]
