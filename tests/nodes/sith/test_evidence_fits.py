"""Evidence of another decomposition, and codes of another dictionary, are refused."""

import pytest

from results.tables import arrow_table
from runner.artifacts import ConceptDictionary, HeadConcepts, HeadDirections
from runner.errors import DataError
from runner.nodes.sith.evidence import check_same_dictionary, check_same_directions

MODEL = {"identity": "a", "fold_ln": True, "minus": None, "layers": [1, 2], "heads": [0, 1], "rank": 8, "name": "m"}
DIRECTIONS = HeadDirections(MODEL, arrow_table("sith_head", []), arrow_table("sith_direction", []), {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"identity": "b"}, "model than the directions"),
        ({"fold_ln": False}, "fold_ln"),
        ({"minus": "base"}, "minus"),
        ({"layers": [2]}, "layers"),
        ({"heads": [1]}, "heads"),
        ({"rank": 4}, "rank"),
    ],
)
def test_evidence_is_of_the_same_decomposition(change, said):
    check_same_directions(DIRECTIONS, {**MODEL, "name": "elsewhere"}, "effects")
    with pytest.raises(DataError, match=f"(?s)effects was made from another.*{said}"):
        check_same_directions(DIRECTIONS, MODEL | change, "effects")


def test_codes_are_of_the_same_dictionary(tmp_path):
    tables = arrow_table("sith_code", []), arrow_table("sith_concept", [])
    concepts = HeadConcepts(MODEL, {"name": "words", "sha256": "1"}, {}, *tables)
    check_same_dictionary(concepts, ConceptDictionary({"name": "copy", "sha256": "1"}, tmp_path))
    with pytest.raises(DataError, match=r"coded with another dictionary \(words\) than the one given \(birds\)"):
        check_same_dictionary(concepts, ConceptDictionary({"name": "birds", "sha256": "2"}, tmp_path))
