"""All statistics of the bias audit under one name; each lives in the module that says what it is about."""

from runner.nodes.bias.label_noise import (
    Gate,
    contamination_gap,
    corrected_gap,
    precision_from_verifier,
    robust_z,
    sanity_gate,
)
from runner.nodes.bias.uncertainty import caption_bootstrap, min_detectable_gap, mover_interval
from runner.nodes.bias.verdicts import (
    FINDINGS,
    Verdict,
    contaminated_holds,
    impure_holds,
    point_verdicts,
    suspicious_holds,
    verdicts,
)
from runner.nodes.intervals import wilson_interval
from runner.nodes.significance import (
    adjust,
    adjust_within,
    chi_square_homogeneity,
    cochran_mantel_haenszel,
    fisher_value_tests,
    mcnemar_exact,
    permutation_test,
    pooled_others,
)

__all__ = [
    "FINDINGS",
    "Gate",
    "Verdict",
    "adjust",
    "adjust_within",
    "caption_bootstrap",
    "chi_square_homogeneity",
    "cochran_mantel_haenszel",
    "contaminated_holds",
    "contamination_gap",
    "corrected_gap",
    "fisher_value_tests",
    "impure_holds",
    "mcnemar_exact",
    "min_detectable_gap",
    "mover_interval",
    "permutation_test",
    "point_verdicts",
    "pooled_others",
    "precision_from_verifier",
    "robust_z",
    "sanity_gate",
    "suspicious_holds",
    "verdicts",
    "wilson_interval",
]
