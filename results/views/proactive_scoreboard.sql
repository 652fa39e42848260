-- Asking for help: a model, mode and scenario (macro: plain mean over scenarios) with accuracy in percent, requests an episode and their 95 % intervals, beside the exact values of choosing at random.
WITH told AS (
    SELECT run_id, variant, step, model, mode, scenario,
           any_value(value) FILTER (metric = 'acc') AS acc,
           any_value(ci_low) FILTER (metric = 'acc') AS acc_low,
           any_value(ci_high) FILTER (metric = 'acc') AS acc_high,
           any_value(uniform) FILTER (metric = 'acc') AS uniform_acc,
           any_value(value) FILTER (metric = 'psr') AS psr,
           any_value(ci_low) FILTER (metric = 'psr') AS psr_low,
           any_value(ci_high) FILTER (metric = 'psr') AS psr_high,
           any_value(uniform) FILTER (metric = 'psr') AS uniform_psr,
           any_value(value) FILTER (metric = 'first_turn_acc') AS first_turn_acc,
           any_value(ci_low) FILTER (metric = 'first_turn_acc') AS first_turn_acc_low,
           any_value(ci_high) FILTER (metric = 'first_turn_acc') AS first_turn_acc_high,
           any_value(value) FILTER (metric = 'exhausted') AS exhausted,
           any_value(ci_low) FILTER (metric = 'exhausted') AS exhausted_low,
           any_value(ci_high) FILTER (metric = 'exhausted') AS exhausted_high,
           any_value(value) FILTER (metric = 'reference_acc') AS reference_given,
           any_value(ci_low) FILTER (metric = 'reference_acc') AS reference_given_low,
           any_value(ci_high) FILTER (metric = 'reference_acc') AS reference_given_high,
           any_value(value) FILTER (metric = 'ps') AS ps,
           any_value(ci_low) FILTER (metric = 'ps') AS ps_low,
           any_value(ci_high) FILTER (metric = 'ps') AS ps_high,
           any_value(value) FILTER (metric = 'cc') AS cc,
           any_value(ci_low) FILTER (metric = 'cc') AS cc_low,
           any_value(ci_high) FILTER (metric = 'cc') AS cc_high,
           any_value(value) FILTER (metric = 'agg') AS agg,
           any_value(ci_low) FILTER (metric = 'agg') AS agg_low,
           any_value(ci_high) FILTER (metric = 'agg') AS agg_high,
           coalesce(max(n) FILTER (metric = 'acc'), max(n) FILTER (metric = 'agg')) AS n, max(n_error) AS n_error
    FROM pb_metrics
    GROUP BY ALL
)
SELECT t.run_id, r.name AS run, t.* EXCLUDE (run_id, reference_given, reference_given_low, reference_given_high),
       coalesce(t.reference_given, f.acc) AS reference_acc,
       CASE WHEN t.reference_given IS NULL THEN f.acc_low ELSE t.reference_given_low END AS reference_low,
       CASE WHEN t.reference_given IS NULL THEN f.acc_high ELSE t.reference_given_high END AS reference_high,
       coalesce(t.reference_given, f.acc) - t.acc AS gap,
       -- Sums that differ by rounding alone are equal.
       CASE WHEN t.acc_low > t.uniform_acc + 1e-9 THEN 'above' WHEN t.acc_high < t.uniform_acc - 1e-9 THEN 'below'
            WHEN t.acc_low IS NOT NULL AND t.acc_high IS NOT NULL AND t.uniform_acc IS NOT NULL THEN 'cannot_be_told' END AS beside_chance
FROM told t
JOIN runs r USING (run_id)
LEFT JOIN told f ON (f.run_id, f.variant, f.step, f.model, f.scenario) = (t.run_id, t.variant, t.step, t.model, t.scenario)
    AND f.mode = 'reference' AND t.mode <> 'reference'
WHERE t.n IS NOT NULL
ORDER BY t.run_id, t.variant, t.step, t.mode, t.scenario = 'macro' DESC, t.scenario, t.acc DESC NULLS LAST, t.model
