import numpy as np
import pytest

from runner.errors import DataError
from runner.nodes.bias.labels import UNMAPPED, judge_images, map_labels


def test_labels_are_matched_by_name_synonym_and_map():
    found = map_labels(["Tabby, tabby cat", "Egyptian_Cat", "golden retriever", "espresso"], ["tabby cat", "dog"],
                       {"golden retriever": "dog", "egyptian cat": "Tabby Cat"})  # fmt: skip
    assert found.meaning == ("tabby cat", "tabby cat", "dog", None)
    assert found.places("tabby cat").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "no label for 'dog'"), ({"wolf": "dog"}, "no label 'wolf'"), ({"b": "cow"}, "'cow' is no class")],
)
def test_labels_that_do_not_fit_are_refused_with_the_models_labels(given, message):
    with pytest.raises(DataError, match=message) as caught:
        map_labels(["cat", "b"], ["cat", "dog"], given)
    assert "cat" in caught.value.hint


LABELS = map_labels(["cat", "kitten", "dog", "espresso"], ["cat", "dog"], {"kitten": "cat"})
LOGITS = np.array([[1, 3, 2, 0], [0, 1, 2, 5], [2, 0, 2, 1], [0, 0, 1, 0]], np.float32)


def test_many_labels_of_one_class_and_answers_outside_the_task():
    said = judge_images(LOGITS, LABELS, "cat", prediction="top1", yes_no=False)
    assert said.pred.tolist() == ["cat", UNMAPPED, "cat", "dog"]
    assert said.correct.tolist() == [True, False, True, False]
    assert said.rank.tolist() == [1, 3, 1, 2]
    z = np.exp(LOGITS.astype(float))
    np.testing.assert_allclose(said.score, z[:, :2].sum(1) / z.sum(1))


def test_only_classes_of_the_task_compete_when_asked():
    said = judge_images(LOGITS, LABELS, "dog", prediction="top1", yes_no=False, compete="task")
    assert said.pred.tolist() == ["cat", "dog", "cat", "dog"]
    assert said.correct.tolist() == [False, True, False, True]


def test_top_k_counts_ranks():
    said = judge_images(LOGITS, LABELS, "dog", prediction="topk:2", yes_no=False)
    assert said.rank.tolist() == [2, 2, 2, 1] and said.correct.all()


def test_exactly_zero_is_yes():
    labels = map_labels(["Smiling", "Hat"], ["Smiling", "Hat"], {})
    said = judge_images(np.array([[0.0, 9], [-1e-6, -9]]), labels, "Smiling", prediction="top1", yes_no=True)
    assert said.correct.tolist() == [True, False]
    assert said.pred.tolist() == ["Smiling", "not Smiling"]
