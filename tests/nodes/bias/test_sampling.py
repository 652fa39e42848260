import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.data.places import Place
from runner.nodes.bias.grid import GroupName
from runner.nodes.bias.sampling import Policy, Sampler, block_counts, shuffled
from runner.nodes.bias.sequential import e_adjusted

VALUES = [2 + a % 4 for a in range(24)]
PLANTED = (0, 5, 10, 15, 20)


def name(attribute, value, target="cat"):
    return GroupName(target, attribute, value)


def places(prefix, n):
    return [Place("s", f"{prefix}{i:03}") for i in range(n)]


def run(groups, look, policy=None, **more):
    """Sample to the end; the sampler, and every picture asked for in order."""
    sampler, asked = Sampler(groups, policy or Policy(), **more), []
    while wanted := sampler.requests():
        asked += [(group, place) for group, several in wanted.items() for place in several]
        sampler.record(look)
    return sampler, asked


def simulated(seed, accuracy, planted=(), images=200):
    """The sampler's verdicts on 24 attributes of 2 to 5 values: disfavoured values, all findings, pictures used."""
    rng, right, groups = np.random.default_rng(seed), {}, {}
    for a, m in enumerate(VALUES):
        for v in range(m):
            groups[name(f"a{a}", f"v{v}")] = mine = places(f"{a}/{v}/", images)
            said = rng.random(images) < accuracy - 0.3 * (a in planted and v == 0)
            right |= dict(zip(mine, said.tolist(), strict=True))
    sampler, asked = run(groups, lambda _, place: right[place])
    trials, said = sampler.trials(), sampler.answered()
    names = list(trials)
    hits = [n for n, q in zip(names, e_adjusted([trials[n].log_e for n in names]), strict=True) if q <= 0.05]
    return {(n.attribute, n.value): np.mean(said[n]) for n in hits}, len(asked)


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95])
def test_a_gap_of_thirty_points_is_found_with_six_tenths_of_the_pictures(accuracy):
    found = other = used = 0
    for seed in range(6):
        hits, asked = simulated(seed, accuracy, PLANTED)
        found += sum((f"a{a}", "v0") in hits for a in PLANTED)
        other += sum(int(attribute[1:]) not in PLANTED for attribute, _ in hits)
        used += asked
    assert found / (6 * len(PLANTED)) >= 0.85
    assert used / (6 * 100 * sum(VALUES)) <= 0.66
    assert other <= 0.1 * found


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95])
def test_without_bias_few_audits_find_anything(accuracy):
    alarms = sum(bool(simulated(1000 + seed, accuracy)[0]) for seed in range(8))
    assert alarms <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=12), min_size=1, max_size=5))
def test_block_counts_are_those_of_a_walk_over_the_blocks(answers):
    total = np.zeros((len(answers), 4), int)
    for t in range(max(map(len, answers), default=0)):
        alive = [v for v, said in enumerate(answers) if len(said) > t]
        for v in alive if len(alive) > 1 else []:
            rest = [answers[o][t] for o in alive if o != v]
            total[v] += [answers[v][t], not answers[v][t], sum(rest), len(rest) - sum(rest)]
    counts = block_counts(answers)
    assert (counts.sum(1) == total).all()
    own, others = counts[..., :2].sum(-1), counts[..., 2:].sum(-1)
    assert (others % np.maximum(own, 1) == 0).all() and (others[own == 0] == 0).all()


def test_the_order_follows_the_seed_and_the_names_alone():
    some = places("x", 50)
    assert shuffled(some, 1) == shuffled(some[::-1], 1) != shuffled(some, 2)
    assert [p for p in shuffled(some, 1) if p in some[:20]] == shuffled(some[:20], 1)
    ranks = [shuffled(some, seed).index(some[0]) for seed in range(400)]
    assert abs(np.mean(ranks) - 24.5) < 4 * 14.4 / 20 and min(ranks) == 0 and max(ranks) == 49


def test_rounds_are_small_first_and_take_the_same_from_each_value():
    groups = {name("a", v): places(v, 120) for v in "xyz"}
    pictures = [place for own in groups.values() for place in own]
    luck = dict(zip(pictures, (np.random.default_rng(2).random(360) < 0.5).tolist(), strict=True))
    sampler, sizes = Sampler(groups, Policy(smallest_gap=0.02, round_size=4, first=10)), []
    while wanted := sampler.requests():
        assert len(wanted) == 3 and len({len(p) for p in wanted.values()}) == 1
        sizes.append(len(wanted[name("a", "x")]))
        sampler.record(lambda _, place: luck[place])
    assert sizes[:5] == [10, 4, 4, 4, 4] and sizes[1:-1] == sorted(sizes[1:-1]) and sizes[-2] > 8
    assert sum(sizes) == 120 and {t.stopped for t in sampler.trials().values()} == {"used_up"}


def test_each_attribute_stops_for_its_own_reason():
    groups = {name(a, v): places(a + v, 150) for a in ("gap", "same", "alike") for v in "xy"}
    groups |= {name("few", "x"): places("few", 3), name("few", "y"): places("fewer", 150)}
    groups |= {name("alone", "x"): places("alone", 50), name("alone", "y"): []}
    lost = [name("alike", "x"), name("alike", "y")]

    def look(_, place):
        return int(place.uri[-3:]) % 2 == 0 if place.uri.startswith(("gapx", "alikex")) else int(place.uri[-1]) > 0

    sampler, asked = run(groups, look, hopeless=lost)
    stopped = {n.attribute: t.stopped for n, t in sampler.trials().items()}
    assert stopped == {
        "gap": "decided",
        "same": "futile",
        "alike": "not_testable",
        "few": "used_up",
        "alone": "used_up",
    }
    count = {a: sum(group.attribute == a for group, _ in asked) for a in stopped}
    assert count["alike"] == 20 and count["few"] == 6 and count["alone"] == 0 and count["gap"] < 300
    trial = sampler.trials()[name("gap", "x")]
    assert trial.log_e > np.log(10 / 0.05) and trial.phi_high < 0
    assert np.isnan(sampler.trials()[name("alone", "y")].log_e)


def test_unreadable_pictures_are_passed_over():
    groups = {name("a", v): places(v, 60) for v in "xy"}
    sampler, asked = run(
        groups, lambda _, p: None if int(p.uri[1:]) < 15 and p.uri[0] == "x" else True, Policy(first=10)
    )
    said = sampler.answered()
    assert len(said[name("a", "x")]) == len(said[name("a", "y")]) >= 10
    assert len(asked) == len({p for _, p in asked}) == 15 + 2 * len(said[name("a", "x")])
    nothing, _ = run(groups, lambda *_: None)
    assert {t.stopped for t in nothing.trials().values()} <= {"used_up", "futile"}


def test_groups_that_run_out_leave_the_others_going():
    groups = {name("a", "x"): places("x", 12), name("a", "y"): places("y", 150), name("a", "z"): places("z", 150)}
    luck = np.random.default_rng(0).random(400) < 0.8
    sampler, _ = run(groups, lambda _, p: bool(luck[ord(p.uri[0]) + int(p.uri[1:])]), Policy(smallest_gap=0.1))
    sizes = {n.value: len(s) for n, s in sampler.answered().items()}
    assert sizes["x"] == 12 < sizes["y"] == sizes["z"]


def test_the_order_of_groups_changes_nothing():
    groups = {name(f"a{a}", v, t): places(f"{t}{a}{v}", 80) for t in ("cat", "dog") for a in range(4) for v in "xyz"}
    luck = {p: b for g, b in zip(groups, np.random.default_rng(5).random((24, 80)) < 0.7, strict=True)
            for p, b in zip(groups[g], b.tolist(), strict=True)}  # fmt: skip
    for scope in ("audit", "target", "attribute"):
        one, _ = run(groups, lambda _, p: luck[p], Policy(fdr_scope=scope))
        two, _ = run(dict(reversed(groups.items())), lambda _, p: luck[p], Policy(fdr_scope=scope))
        assert one.trials() == two.trials()


def test_nothing_to_sample_is_no_error():
    sampler, asked = run({}, lambda *_: True)
    assert asked == [] and sampler.trials() == {}
