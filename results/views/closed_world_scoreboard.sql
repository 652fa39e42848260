-- Closed world: a method on a dataset in one row, its accuracies with 95 % intervals.
SELECT s.run_id, r.name AS run, s.variant, v.setting, s.step, s.method, s.model, s.shots, s.name AS dataset,
       any_value(s.value) FILTER (metric = 'accuracy_inclusion') AS accuracy,
       any_value(s.low) FILTER (metric = 'accuracy_inclusion') AS low,
       any_value(s.high) FILTER (metric = 'accuracy_inclusion') AS high,
       any_value(s.sd) FILTER (metric = 'accuracy_inclusion') AS sd,
       any_value(s.value) FILTER (metric = 'accuracy_strict') AS strict_accuracy,
       any_value(s.low) FILTER (metric = 'accuracy_strict') AS strict_low,
       any_value(s.high) FILTER (metric = 'accuracy_strict') AS strict_high,
       any_value(s.sd) FILTER (metric = 'accuracy_strict') AS strict_sd,
       max(s.n) AS n, max(s.failures) AS failures, max(s.seeds) AS seeds
FROM closed_world_summary s
JOIN runs r USING (run_id)
JOIN variant_settings v USING (run_id, variant)
WHERE s.level = 'dataset'
GROUP BY s.run_id, r.name, s.variant, v.setting, s.step, s.method, s.model, s.shots, s.name
ORDER BY s.run_id, s.variant, s.name, accuracy DESC NULLS LAST
