-- Leakage: own and cross AUROC of every extractor and control, at the deepest layer that it was probed at (-1: controls that read no features).
SELECT run_id, variant, step, dataset, model, probe, extractor, layer,
       any_value(value) FILTER (measure = 'own') AS own,
       any_value(ci_low) FILTER (measure = 'own') AS own_low,
       any_value(ci_high) FILTER (measure = 'own') AS own_high,
       any_value(value) FILTER (measure = 'cross') AS "cross",
       any_value(ci_low) FILTER (measure = 'cross') AS cross_low,
       any_value(ci_high) FILTER (measure = 'cross') AS cross_high,
       max(n_attributes) AS n_attributes, max(n_test) AS n_test,
       coalesce(list_position(['single', 'two_stage', 'whole', 'two_stage_whole', 'background', 'two_stage_background', 'random_region', 'mask_only', 'no_artefacts', 'swap', 'swap_donor', 'decorrelate', 'decorrelate_two_stage', 'label_only', 'label_shuffle'], extractor), 99) AS place
FROM leak_summary
WHERE metric = 'auroc' AND measure IN ('own', 'cross') AND versus IS NULL
GROUP BY run_id, variant, step, dataset, model, probe, extractor, layer
QUALIFY layer = max(layer) OVER (PARTITION BY run_id, variant, step, dataset, model, probe, extractor)
ORDER BY run_id, variant, step, dataset, model, place, extractor, probe
