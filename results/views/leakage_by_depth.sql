-- Leakage: what part vectors tell of their own part's attributes and of others', by layer, single-stage against two-stage (AUROC, 95 % intervals).
SELECT s.run_id, r.name AS run, s.variant, s.step, s.dataset, s.model, s.probe, s.layer,
       any_value(value) FILTER (extractor = 'single' AND measure = 'own') AS own,
       any_value(ci_low) FILTER (extractor = 'single' AND measure = 'own') AS own_low,
       any_value(ci_high) FILTER (extractor = 'single' AND measure = 'own') AS own_high,
       any_value(value) FILTER (extractor = 'single' AND measure = 'cross') AS "cross",
       any_value(ci_low) FILTER (extractor = 'single' AND measure = 'cross') AS cross_low,
       any_value(ci_high) FILTER (extractor = 'single' AND measure = 'cross') AS cross_high,
       any_value(value) FILTER (extractor = 'two_stage' AND measure = 'own') AS own_two,
       any_value(ci_low) FILTER (extractor = 'two_stage' AND measure = 'own') AS own_two_low,
       any_value(ci_high) FILTER (extractor = 'two_stage' AND measure = 'own') AS own_two_high,
       any_value(value) FILTER (extractor = 'two_stage' AND measure = 'cross') AS cross_two,
       any_value(ci_low) FILTER (extractor = 'two_stage' AND measure = 'cross') AS cross_two_low,
       any_value(ci_high) FILTER (extractor = 'two_stage' AND measure = 'cross') AS cross_two_high,
       any_value(value) FILTER (extractor = 'single' AND measure = 'excess_leakage' AND versus = 'two_stage') AS excess,
       any_value(ci_low) FILTER (extractor = 'single' AND measure = 'excess_leakage' AND versus = 'two_stage') AS excess_low,
       any_value(ci_high) FILTER (extractor = 'single' AND measure = 'excess_leakage' AND versus = 'two_stage') AS excess_high,
       any_value(value) FILTER (extractor = 'single' AND measure = 'locality_gap') AS locality_gap,
       any_value(value) FILTER (extractor = 'single' AND measure = 'leak_ratio') AS leak_ratio,
       any_value(value) FILTER (extractor = 'single' AND measure = 'normalised_leakage' AND versus = 'two_stage') AS normalised_leakage,
       any_value(value) FILTER (extractor = 'single' AND measure = 'own_delta' AND versus = 'two_stage') AS own_delta,
       max(n_attributes) AS n_attributes, max(n_test) AS n_test, max(n_groups) AS n_groups
FROM leak_summary s
JOIN runs r USING (run_id)
WHERE s.metric = 'auroc' AND s.extractor IN ('single', 'two_stage') AND s.layer >= 0
GROUP BY s.run_id, r.name, s.variant, s.step, s.dataset, s.model, s.probe, s.layer
ORDER BY s.run_id, s.variant, s.step, s.dataset, s.model, s.probe, s.layer
