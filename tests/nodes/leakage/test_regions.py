"""Regions that controls look at instead of a part."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.nodes.leakage.regions import constant_pictures, extended, random_regions, without_high_norm


def naive_region(inside, part, place, across):
    """The same by sorting in plain Python: beside the part where there is room, else anywhere in the object."""
    own, count = [n for n in range(len(inside)) if inside[n]], sum(part)
    beside = [n for n in own if not part[n]]
    own = beside if len(beside) >= count else own
    if count > len(own) or not count:
        return set()
    centre = own[min(int(place * len(own)), len(own) - 1)]
    apart = lambda n: (n // across - centre // across) ** 2 + (n % across - centre % across) ** 2  # noqa: E731
    return set(sorted(own, key=lambda n: (apart(n), n))[:count])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from([3, 4, 7]))
def test_regions_are_what_a_plain_search_finds(seed, across):
    generator = torch.Generator().manual_seed(seed)
    inside = torch.rand(2, across**2, generator=generator) < torch.rand(2, 1, generator=generator)
    shares = torch.rand(2, 5, 1, generator=generator)
    parts = torch.rand(2, 5, across**2, generator=generator) < shares  # some reach beyond the object
    places = torch.rand(2, 5, generator=generator)
    found = random_regions(inside, parts, places)
    for b in range(2):
        for p in range(5):
            wanted = naive_region(inside[b].tolist(), parts[b, p].tolist(), float(places[b, p]), across)
            assert set(found[b, p].nonzero().flatten().tolist()) == wanted


def test_a_region_lies_beside_the_part_where_there_is_room():
    inside = torch.arange(36)[None] < 30
    parts = torch.stack([torch.arange(36) < n for n in (15, 16, 30)])[None]
    for seed in range(20):
        places = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed))
        found = random_regions(inside, parts, places)
        assert found.sum(-1).tolist() == [[15, 16, 30]] and not (found & ~inside).any()
        shared = (found & parts).sum(-1)[0].tolist()
        assert shared[0] == 0 and shared[1] > 0 and shared[2] == 30


def test_tokens_of_high_norm_are_left_out_by_picture():
    tokens = torch.ones(2, 9, 4) * (1 + 0.01 * torch.arange(9)[None, :, None])
    tokens[0, 4] *= 50
    weights = torch.ones(2, 3, 9, dtype=torch.bool)
    left = without_high_norm(weights, tokens)
    assert left.dtype == torch.bool and (~left).nonzero()[:, [0, 2]].unique(dim=0).tolist() == [[0, 4]]
    soft = without_high_norm(weights.float() * 0.5, tokens)
    assert soft[0, 0, 4] == 0 and soft[1].eq(0.5).all()


def test_further_sources_are_the_object_and_what_is_not_it():
    masks, whole = torch.zeros(2, 1, 4, 4, dtype=torch.bool), torch.zeros(2, 4, 4, dtype=torch.bool)
    whole[0, :2] = True
    made = extended(masks, whole, ("background", "whole"))
    assert torch.equal(made[0, 1], ~whole[0]) and torch.equal(made[0, 2], whole[0])
    assert not made[1].any(), "without an object there is no background"
    assert torch.equal(extended(masks, whole, ()), masks)


def test_pictures_of_one_colour_differ_from_what_surrounds_a_part():
    images = torch.rand(2, 3, 4, 4)
    assert constant_pictures(images, torch.tensor([0.4, 0.4, 0.4])).eq(1).all()
    assert constant_pictures(images, torch.tensor([1.0, 1.0, 0.9])).eq(0).all()
    with pytest.raises(ValueError, match="one fill for all pictures"):
        constant_pictures(images, torch.zeros(2, 1, 3, 4, 4))
