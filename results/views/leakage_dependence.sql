-- Leakage without labels: share of the gradient outside the part, and how far its vector moves when the outside or the inside is replaced.
SELECT run_id, variant, step, dataset, model, layer, part, extractor,
       any_value(mean) FILTER (measure = 'grad_share_out') AS grad_share_out,
       any_value(ci_low) FILTER (measure = 'grad_share_out') AS grad_share_out_low,
       any_value(ci_high) FILTER (measure = 'grad_share_out') AS grad_share_out_high,
       any_value(mean) FILTER (measure = 'd_out') AS d_out,
       any_value(largest) FILTER (measure = 'd_out') AS d_out_largest,
       any_value(mean) FILTER (measure = 'd_in') AS d_in,
       any_value(mean) FILTER (measure = 'out_share') AS out_share,
       any_value(ci_low) FILTER (measure = 'out_share') AS out_share_low,
       any_value(ci_high) FILTER (measure = 'out_share') AS out_share_high,
       max(n) AS n, max(n_groups) AS n_groups
FROM leak_dependence_summary
GROUP BY run_id, variant, step, dataset, model, layer, part, extractor
ORDER BY run_id, variant, step, dataset, model, layer, part != 'all', part, extractor
