import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retrieval import quality as q

# Few distinct similarities, so that ties happen.
SIMILARITY = st.sampled_from([0.1, 0.2, 0.2049, 0.3, 0.31, 0.5])


@st.composite
def candidates(draw, most=40):
    """Candidates as retrieval gives them: each caption names each row once; captions belong to groups."""
    captions = draw(st.integers(1, 5))
    group = draw(st.lists(st.integers(0, 3), min_size=captions, max_size=captions))
    rows = draw(st.lists(st.tuples(st.integers(0, captions - 1), st.integers(0, 11)), max_size=most, unique=True))
    rows.sort()
    similarity = draw(st.lists(SIMILARITY, min_size=len(rows), max_size=len(rows)))
    image_of_row = draw(st.lists(st.integers(0, 8), min_size=12, max_size=12))
    attribute_of_group = draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=4, max_size=4))
    c = np.array([caption for caption, _ in rows], np.int64)
    r = np.array([row for _, row in rows], np.int64)
    g = np.array(group, np.int64)[c]
    return q.Candidates(
        c, r, np.array(similarity, float), np.array(image_of_row, np.int64)[r], g,
        np.array(attribute_of_group, np.int64)[g],
    )  # fmt: skip


def best(c, members):
    return min(members, key=lambda i: (-c.similarity[i], c.row[i], i))


def slow_leaders(c, same):
    return [
        best(c, [j for j in range(len(c)) if c.group[j] == c.group[i] and same[j] == same[i]]) for i in range(len(c))
    ]


def slow_components(c, vectors, bar):
    found = list(range(len(c)))
    for _ in range(len(c)):
        for i in range(len(c)):
            for j in range(len(c)):
                close = vectors[c.row[i]] @ vectors[c.row[j]] >= bar
                if close and c.group[i] == c.group[j]:
                    found[i] = found[j] = min(found[i], found[j])
    return found


def unit_vectors(seed):
    vectors = np.random.default_rng(seed).normal(size=(12, 3)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(candidates())
def test_leaders_against_a_slow_search(c):
    assert q.leaders(c.group, c.image, c.similarity, c.row).tolist() == slow_leaders(c, c.image)


@given(candidates(), st.integers(0, 100))
def test_components_against_a_slow_search(c, seed):
    vectors = unit_vectors(seed)
    fast, slow = q.components(c.group, c.row, vectors, 0.9), slow_components(c, vectors, 0.9)
    for i in range(len(c)):
        for j in range(len(c)):
            if c.group[i] == c.group[j]:
                assert (fast[i] == fast[j]) == (slow[i] == slow[j])


def test_components_are_connected_through_a_third_picture():
    angles = np.deg2rad([0, 15, 30, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    group, row = np.zeros(4, np.int64), np.arange(4)
    found = q.components(group, row, vectors, 0.94)  # cos 15 = 0.966, cos 30 = 0.866
    assert found[0] == found[1] == found[2] != found[3]


@given(candidates(), st.sampled_from([0.0, 0.01, 0.1]))
def test_value_conflicts_against_a_slow_search(c, margin):
    alone = np.flatnonzero(q.leaders(c.group, c.image, c.similarity, c.row) == np.arange(len(c)))
    c = c.at(alone)
    fast = q.value_conflicts(c.attribute, c.image, c.similarity, margin)
    for i in range(len(c)):
        rivals = [j for j in range(len(c)) if c.attribute[j] == c.attribute[i] and c.image[j] == c.image[i]]
        values = sorted((c.similarity[j] for j in rivals), reverse=True)
        if c.attribute[i] < 0 or len(rivals) == 1:
            assert fast[i] == q.KEPT
        elif values[0] - values[1] < margin:
            assert fast[i] == q.AMBIGUOUS
        elif values[0] > values[1]:
            assert fast[i] == (q.KEPT if c.similarity[i] == values[0] else q.OTHER_VALUE)
    kept = np.flatnonzero((fast == q.KEPT) & (c.attribute >= 0))
    pairs = list(zip(c.attribute[kept], c.image[kept], strict=True))
    assert len(pairs) == len(set(pairs))


@given(candidates())
def test_places_against_a_slow_search(c):
    fast = q.places(c.caption, c.similarity, c.row)
    for i in range(len(c)):
        before = [
            j for j in range(len(c))
            if c.caption[j] == c.caption[i] and (-c.similarity[j], c.row[j], j) < (-c.similarity[i], c.row[i], i)
        ]  # fmt: skip
        assert fast[i] == len(before)


@given(candidates(), st.integers(0, 100), st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_best_contrast_against_a_slow_search(c, seed, sizes):
    vectors = unit_vectors(seed)
    contrasts = [unit_vectors(seed + 1 + n)[:size] for n, size in enumerate(sizes)]
    fast = q.best_contrast(c.caption, c.row, vectors, contrasts)
    for i in range(len(c)):
        against = contrasts[c.caption[i]]
        slow = max((float(vectors[c.row[i]] @ t) for t in against), default=-np.inf)
        assert fast[i] == slow or abs(fast[i] - slow) < 1e-6


@given(hnp.arrays(np.int64, 20, elements=st.integers(1, 12)), hnp.arrays(np.int64, 20, elements=st.integers(1, 12)))
def test_size_faults(width, height):
    fast = q.size_faults(width, height, 4, 60)
    for w, h, code in zip(width, height, fast, strict=True):
        assert code == (q.LARGE if w * h > 60 else q.SMALL if min(w, h) < 4 else q.KEPT)


def test_size_faults_do_not_overflow():
    huge = np.array([2**31 - 1])
    assert q.size_faults(huge, huge, 1, 50_000_000)[0] == q.LARGE


RULES = q.Rules(k=2, min_side=4, max_pixels=100, dedup_cosine=0.97, margin=0.01)


def judged(c, seed):
    rng = np.random.default_rng(seed)
    width, height = rng.integers(2, 14, (2, 12))
    contrast = rng.choice([0.05, 0.2, 0.4], len(c))
    fates = q.judge(c, RULES, width=width[c.row], height=height[c.row], vectors=unit_vectors(seed), contrast=contrast)
    return fates, width, height, contrast


def slow_judge(c, width, height, vectors, contrast):
    """The rules one by one, over sets of survivors."""
    alive, reason = list(range(len(c))), ["kept"] * len(c)

    def drop(i, why):
        alive.remove(i)
        reason[i] = why

    for i in list(alive):
        if width[c.row[i]] * height[c.row[i]] > RULES.max_pixels:
            drop(i, "large")
        elif min(width[c.row[i]], height[c.row[i]]) < RULES.min_side:
            drop(i, "small")
    for i in [
        i for i in alive if i != best(c, [j for j in alive if c.group[j] == c.group[i] and c.image[j] == c.image[i]])
    ]:
        drop(i, "duplicate")
    survivors = c.at(np.array(alive, np.int64))
    label = dict(zip(alive, slow_components(survivors, vectors, RULES.dedup_cosine), strict=True))
    for i in [
        i for i in alive if i != best(c, [j for j in alive if c.group[j] == c.group[i] and label[j] == label[i]])
    ]:
        drop(i, "near_duplicate")
    verdicts = {}
    for i in alive:
        rivals = sorted(
            (j for j in alive if c.attribute[j] == c.attribute[i] and c.image[j] == c.image[i]),
            key=lambda j: -c.similarity[j],
        )
        if c.attribute[i] >= 0 and len(rivals) > 1:
            lead = c.similarity[rivals[0]] - c.similarity[rivals[1]]
            verdicts[i] = "ambiguous" if lead < RULES.margin else "other_value" if i != rivals[0] else None
    for i, why in verdicts.items():
        if why:
            drop(i, why)
    for i in list(alive):
        if not c.similarity[i] > contrast[i]:
            drop(i, "irrelevant")
    for i in [
        i for i in alive
        if len([j for j in alive if c.caption[j] == c.caption[i] and (-c.similarity[j], c.row[j]) < (-c.similarity[i], c.row[i])]) >= RULES.k
    ]:  # fmt: skip
        drop(i, "surplus")
    return reason


@given(candidates(), st.integers(0, 50))
def test_all_rules_together_against_the_slow_ones(c, seed):
    fates, width, height, contrast = judged(c, seed)
    slow = slow_judge(c, width, height, unit_vectors(seed), contrast)
    assert [q.REASONS[code] for code in fates.reason] == slow


@given(candidates(), st.integers(0, 50))
def test_a_duplicate_points_to_a_candidate_of_its_group_and_nothing_else_does(c, seed):
    fates, *_ = judged(c, seed)
    repeated = np.isin(fates.reason, (q.DUPLICATE, q.NEAR_DUPLICATE))
    assert np.array_equal(fates.leader != np.arange(len(c)), repeated)
    assert np.array_equal(c.group[fates.leader], c.group)


@given(candidates(), st.integers(0, 50), st.randoms(use_true_random=False))
def test_the_order_of_captions_changes_no_fate(c, seed, random):
    fates, width, height, contrast = judged(c, seed)
    captions = list(range(5))
    random.shuffle(captions)
    order = np.lexsort((c.row, np.array(captions)[c.caption])) if len(c) else np.arange(0)
    moved = c.at(order)
    again = q.judge(
        moved,
        RULES,
        width=width[moved.row],
        height=height[moved.row],
        vectors=unit_vectors(seed),
        contrast=contrast[order],
    )

    # A picture that two captions of one group find with the same similarity may be kept under either.
    def key(candidates, fate):
        return sorted(zip(candidates.group[fate.kept], candidates.row[fate.kept], strict=True))

    ties = len({(g, r, s) for g, r, s in zip(c.group, c.row, c.similarity, strict=True)}) < len(c)
    assert ties or key(c, fates) == key(moved, again)


def test_the_paper_keeps_everything():
    c = q.Candidates(*(np.zeros(3, t) for t in (int, int, float, int, int, int)))
    assert q.keep_all(c).kept.all() and q.keep_all(c).leader.tolist() == [0, 1, 2]


def test_no_candidates_at_all():
    c = q.Candidates(*(np.zeros(0, t) for t in (np.int64, np.int64, float, np.int64, np.int64, np.int64)))
    none = np.zeros(0, np.int64)
    contrast = q.best_contrast(c.caption, c.row, unit_vectors(0), [])
    assert len(q.judge(c, RULES, width=none, height=none, vectors=unit_vectors(0), contrast=contrast).reason) == 0


@given(st.integers(0, 2**32 - 1))
def test_on_target_is_zero_shot_agreement(seed: int) -> None:
    """Kept are exactly the pictures whose nearest class is their own, counted picture by picture."""
    rng = np.random.default_rng(seed)
    vectors, names = rng.normal(size=(9, 4)), rng.normal(size=(3, 4))
    row, target = rng.integers(0, 9, 20), rng.integers(0, 3, 20)
    slow = [max(range(3), key=lambda c: float(vectors[r] @ names[c])) == t for r, t in zip(row, target, strict=True)]
    assert q.on_target(target, row, vectors, names).tolist() == slow
