-- Leakage: what the vector of one part tells of another's attributes (mean AUROC), single-stage, two-stage, and the difference.
SELECT run_id, variant, step, dataset, model, probe, layer, source_part, owner_part, source_part = owner_part AS is_own,
       any_value(auroc_mean) FILTER (extractor = 'single') AS single,
       any_value(ci_low) FILTER (extractor = 'single') AS single_low,
       any_value(ci_high) FILTER (extractor = 'single') AS single_high,
       any_value(auroc_mean) FILTER (extractor = 'two_stage') AS two_stage,
       any_value(ci_low) FILTER (extractor = 'two_stage') AS two_stage_low,
       any_value(ci_high) FILTER (extractor = 'two_stage') AS two_stage_high,
       any_value(auroc_mean) FILTER (extractor = 'single') - any_value(auroc_mean) FILTER (extractor = 'two_stage') AS difference,
       max(n_attributes) AS n_attributes
FROM leak_pair
WHERE extractor IN ('single', 'two_stage') AND layer >= 0
GROUP BY run_id, variant, step, dataset, model, probe, layer, source_part, owner_part
ORDER BY run_id, variant, step, dataset, model, probe, layer, source_part, owner_part
