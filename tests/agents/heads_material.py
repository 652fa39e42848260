"""Codes of singular vectors for the judge, and a reader of the list in its question."""

from __future__ import annotations

import json

from openworld_material import contents

from results.tables import arrow_table
from runner.artifacts import HeadConcepts

SETTING = {"method": "comp", "k": 5, "coherence": 0.3}


def head_concepts(lists, *, settings=None, extra=()):
    """Codes from ``{(layer, head, sv): [(concept, coefficient), ...]}``; ``extra``: codes in other settings."""
    codes, concepts = [], []
    for setting, given in ((SETTING, lists), *extra):
        for (layer, head, sv), atoms in given.items():
            place = {"layer": layer, "head": head, "sv": sv, "side": "right", "sign": 1, **setting}
            codes.append({**place, "resid_norm": 0.5, "n_active": sum(coef > 0 for _, coef in atoms)})
            for pick, (concept, coef) in enumerate(atoms):
                concepts.append({**place, "pick": pick, "atom": pick, "concept": concept, "coef": coef})
    tables = arrow_table("sith_code", codes), arrow_table("sith_concept", concepts)
    return HeadConcepts({"name": "m"}, {"name": "d"}, settings or {}, *tables)


def shown_list(body):
    """Concepts of the list to rate in a request, as the judge reads them."""
    listed = contents(body)[0].partition("The list to rate:\n")[2].splitlines()
    return [(json.loads(line[7:]), float(line[2:6])) for line in listed]
