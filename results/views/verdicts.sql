-- C2B: every group with its verdict, the captions that found its images, and what hidden labels said where there are any.
SELECT r.name AS run, g.*, g.acc - g.phi AS others_acc, CASE WHEN g.value_source = 'measured' THEN NULL ELSE c.captions END AS captions,
       b.measure, b.unit, b.low AS bin_low, b.high AS bin_high, b.category AS bin_category, b.rule AS bin_rule, b.pool,
       t.labelled, t.true_target_precision, t.true_n, t.true_k, t.true_acc, t.true_low, t.true_high,
       t.true_phi, t.true_phi_low, t.true_phi_high, t.agreement
FROM c2b_group g
JOIN runs r USING (run_id)
LEFT JOIN group_captions c USING (run_id, variant, target, attribute, value)
LEFT JOIN measured_bins b ON g.value_source = 'measured'
    AND (b.run_id, b.variant, b.target, b.attribute, b.value) = (g.run_id, g.variant, g.target, g.attribute, g.value)
LEFT JOIN c2b_truth t ON (t.run_id, t.variant, t.target, t.attribute, t.value) = (g.run_id, g.variant, g.target, g.attribute, g.value)
    AND t.value_source IS NOT DISTINCT FROM g.value_source
QUALIFY row_number() OVER (
    PARTITION BY g.run_id, g.variant, g.step, g.target, g.attribute, g.value, g.value_source
    ORDER BY t.verdict = g.verdict DESC NULLS LAST, t.step) = 1
