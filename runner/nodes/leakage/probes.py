"""Probes of part vectors and what is read off their scores, by their names. Each equation stands in the module it comes from."""

from runner.nodes.leakage.linear_probe import LinearProbe
from runner.nodes.leakage.logistic_probe import logistic_probe
from runner.nodes.leakage.metrics import LeakageScores, leakage_scores, pair_matrix
from runner.nodes.leakage.mlp_probe import MlpProbe, mlp_probe
from runner.nodes.leakage.ranking import auroc, average_precision
from runner.nodes.leakage.ridge_probe import ridge_grid, ridge_probe

RidgeProbe = LinearProbe

__all__ = [
    "LeakageScores", "LinearProbe", "MlpProbe", "RidgeProbe", "auroc", "average_precision", "leakage_scores", "logistic_probe",
    "mlp_probe", "pair_matrix", "ridge_grid", "ridge_probe",
]  # fmt: skip
