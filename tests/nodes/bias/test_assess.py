import numpy as np
import pytest

from results.tables import arrow_table
from runner.nodes.bias.assess import Rules, assess_groups
from runner.nodes.bias.grid import CheckedShares, GroupCounts, GroupName


def group(target, attribute, value, k, n, similarity=0.3, **more):
    return GroupCounts(GroupName(target, attribute, value), ((k, n),), similarity, **more)


def simulated_audit(rng, *, n, accuracy=0.8, planted=()):
    """24 attributes of 2-5 values; ``planted`` attributes have one value that is 0.30 worse."""
    groups, true = [], set()
    for attribute in range(24):
        for value in range(2 + attribute % 4):
            worse = attribute in planted and value == 0
            k = rng.binomial(n, accuracy - 0.3 * worse)
            groups.append(group("cat", f"a{attribute}", f"v{value}", int(k), n))
            if worse:
                true.add((f"a{attribute}", f"v{value}"))
    return groups, true


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95])
def test_without_bias_few_audits_give_any_verdict(accuracy):
    alarms = 0
    for seed in range(200):
        groups, _ = simulated_audit(np.random.default_rng(seed), n=100, accuracy=accuracy)
        rows = assess_groups(groups, Rules()).groups
        alarms += any(row["verdict"] in ("favoured", "disfavoured") for row in rows)
    assert alarms / 200 <= 0.07


def test_planted_gaps_are_found_and_point_the_right_way():
    found = planted = false = 0
    for seed in range(60):
        groups, true = simulated_audit(np.random.default_rng(1000 + seed), n=100, planted=(0, 5, 10, 15, 20))
        rows = assess_groups(groups, Rules()).groups
        bad = {(r["attribute"], r["value"]) for r in rows if r["verdict"] == "disfavoured"}
        found += len(bad & true)
        false += len(bad - true)
        planted += len(true)
    assert found / planted >= 0.95
    assert false / max(found + false, 1) <= 0.05


def test_rows_fit_the_results_tables():
    groups = [
        group(t, "lighting", v, k, 100) for t in ("cat", "dog") for v, k in (("dark", 60), ("bright", 90), ("dim", 88))
    ]
    done = assess_groups([*groups, group("cat", "pose", "sitting", 5, 9), group("cat", "pose", "lying", 0, 0)], Rules())
    assert arrow_table("c2b_group", done.groups).num_rows == 8
    assert arrow_table("c2b_attribute_test", done.tests).num_rows == 3
    assert arrow_table("c2b_pooled_test", done.pooled).num_rows == 3
    dark = next(r for r in done.groups if r["target"] == "cat" and r["value"] == "dark")
    assert dark["verdict"] == "disfavoured" and dark["phi"] == pytest.approx(0.6 - 0.89)
    assert dark["phi_low"] < dark["phi"] < dark["phi_high"] < 0
    lying = next(r for r in done.groups if r["value"] == "lying")
    assert (lying["verdict"], lying["acc"], lying["phi"], lying["n"]) == ("undefined", None, None, 0)
    pooled = {r["value"]: r for r in done.pooled}
    assert pooled["dark"]["odds_ratio"] < 1 < pooled["bright"]["odds_ratio"] and pooled["dark"]["targets"] == 2


def test_order_and_unrelated_target_names_change_nothing():
    groups, _ = simulated_audit(np.random.default_rng(5), n=60, planted=(2, 9))
    rules = Rules(permutation=199)
    shuffled = [groups[i] for i in np.random.default_rng(0).permutation(len(groups))]
    assert assess_groups(shuffled, rules) == assess_groups(groups, rules)


def test_paper_mode_is_the_published_rule_at_20_images():
    groups = [group("cat", "a", "x", 19, 20), group("cat", "a", "y", 20, 20)]
    groups += [group("cat", "b", "x", 18, 20), group("cat", "b", "y", 20, 20)]
    rows = assess_groups(groups, Rules(paper_mode=True)).groups
    assert [r["verdict"] for r in rows] == ["no_evidence", "no_evidence", "disfavoured", "favoured"]
    assert [r["verdict"] for r in assess_groups(groups, Rules()).groups] == ["no_evidence"] * 4


def contaminated(checked):
    """An unbiased classifier (0.95 right) where 40 % of one group's images show something else."""
    known = {"good": CheckedShares(1.0, np.nan), "bad": CheckedShares(0.6, np.nan)} if checked else {}
    rows = [group("cat", f"a{i}", v, 95, 100, 0.30 + 0.001 * (i % 3)) for i in range(8) for v in ("x", "y")]
    rows.append(group("cat", "setting", "good", 95, 100, 0.30, **({"checked": known["good"]} if known else {})))
    rows.append(group("cat", "setting", "bad", 57, 100, 0.18, **({"checked": known["bad"]} if known else {})))
    return {(r["attribute"], r["value"]): r for r in assess_groups(rows, Rules()).groups}


def test_wrong_pictures_become_no_finding_with_a_checker():
    rows = contaminated(checked=True)
    assert {r["verdict"] for r in rows.values()} == {"no_evidence", "held_back"}
    bad = rows["setting", "bad"]
    assert bad["target_check"] == "verifier" and "do not show the target" in bad["verdict_reason"]


def test_wrong_pictures_are_held_back_without_a_checker():
    rows = contaminated(checked=False)
    bad, good = rows["setting", "bad"], rows["setting", "good"]
    assert (bad["verdict"], bad["target_check"]) == ("held_back", "none")
    assert good["verdict"] == "held_back" and "may not show" in bad["verdict_reason"]


def test_true_gap_survives_a_checker():
    shares = CheckedShares(0.95, 0.9)
    rows = assess_groups(
        [group("cat", "a", "x", 50, 100, checked=shares), group("cat", "a", "y", 90, 100, checked=shares)], Rules()
    ).groups
    assert [r["verdict"] for r in rows] == ["disfavoured", "favoured"]
    assert rows[0]["phi_corrected"] == pytest.approx(-0.4 / 0.8)


def test_captions_that_disagree_are_no_evidence():
    def of(value, *counts):
        return GroupCounts(GroupName("cat", "a", value), counts)

    calm = assess_groups([of("x", (30, 50), (28, 50), (29, 50)), of("y", (47, 50), (48, 50), (47, 50))], Rules()).groups
    wild = assess_groups([of("x", (50, 50), (0, 50), (37, 50)), of("y", (47, 50), (48, 50), (47, 50))], Rules()).groups
    assert calm[0]["verdict"] == "disfavoured" and calm[0]["boot_high"] < 0
    assert wild[0]["verdict"] == "no_evidence" and "captions disagree" in wild[0]["verdict_reason"]


@pytest.mark.parametrize("scope", ["audit", "target", "attribute"])
def test_families_are_what_the_scope_says(scope):
    groups = [group(t, a, v, k, 100) for t in "st" for a in "ab" for v, k in (("x", 80), ("y", 91), ("z", 88))]
    rows = assess_groups(groups, Rules(fdr_scope=scope)).groups
    tests = {"audit": 12, "target": 6, "attribute": 3}[scope]
    smallest = min(r["fisher_p"] for r in rows)
    family = [r for r in rows if scope == "audit" or r["target"] == "s"][:tests]
    assert min(r["p_holm"] for r in family) == pytest.approx(min(1, smallest * tests))


def test_permutation_p_is_used_when_asked_for():
    groups = [group("cat", "a", "x", 60, 100), group("cat", "a", "y", 90, 100)]
    row = assess_groups(groups, Rules(permutation=999, fdr="none")).groups[0]
    assert row["q_value"] == row["permutation_p"] == pytest.approx(0.001)
    assert assess_groups(groups, Rules(fdr="none")).groups[0]["permutation_p"] is None


def test_an_empty_audit_is_empty_and_a_doubled_group_is_refused():
    assert assess_groups([], Rules()) == ([], [], [])
    with pytest.raises(ValueError, match="twice"):
        assess_groups([group("cat", "a", "x", 1, 2)] * 2, Rules())
