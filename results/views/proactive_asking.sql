-- Asking for help: what a model does when the first picture is not enough and how much less it asks at the most telling one, with a verdict and a sentence to quote; in percent, macro = plain mean over scenarios.
WITH told AS (
    SELECT run_id, variant, step, model, mode, scenario, max(n) FILTER (metric = 'first_asked') AS n,
           any_value(value) FILTER (metric = 'first_asked') AS asks,
           any_value(ci_low) FILTER (metric = 'first_asked') AS asks_low,
           any_value(ci_high) FILTER (metric = 'first_asked') AS asks_high,
           any_value(value) FILTER (metric = 'first_abstained') AS abstains,
           any_value(ci_low) FILTER (metric = 'first_abstained') AS abstains_low,
           any_value(ci_high) FILTER (metric = 'first_abstained') AS abstains_high,
           any_value(value) FILTER (metric = 'first_predicted') AS answers,
           any_value(ci_low) FILTER (metric = 'first_predicted') AS answers_low,
           any_value(ci_high) FILTER (metric = 'first_predicted') AS answers_high,
           any_value(value) FILTER (metric = 'first_turn_acc') AS right_at_once,
           any_value(ci_low) FILTER (metric = 'first_turn_acc') AS right_at_once_low,
           any_value(ci_high) FILTER (metric = 'first_turn_acc') AS right_at_once_high,
           any_value(value) FILTER (metric = 'first_unreadable') AS unreadable,
           any_value(ci_low) FILTER (metric = 'first_unreadable') AS unreadable_low,
           any_value(ci_high) FILTER (metric = 'first_unreadable') AS unreadable_high
    FROM pb_metrics
    WHERE mode NOT IN ('frames', 'reference')
    GROUP BY ALL
    HAVING max(n) FILTER (metric = 'first_asked') > 0
), vain AS (
    SELECT run_id, variant, step, model, mode, CASE WHEN GROUPING(scenario) = 1 THEN 'macro' ELSE scenario END AS scenario, 100 * avg(invalid) AS asks_in_vain
    FROM pb_by_turn
    WHERE turn = 1 AND alive > 0
    GROUP BY GROUPING SETS ((run_id, variant, step, model, mode, scenario), (run_id, variant, step, model, mode))
), told_apart AS (
    SELECT run_id, variant, step, model, scenario, mode, value AS discrimination, ci_low AS discrimination_low, ci_high AS discrimination_high, n AS discrimination_n
    FROM pb_metrics
    WHERE metric = 'discrimination' AND value IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY run_id, variant, step, model, scenario ORDER BY mode <> 'frames', mode) = 1
), ends AS (
    SELECT run_id, variant, step, model, scenario,
           100 * any_value(under_asking) FILTER (place = 0) AS under_asking,
           100 * any_value(under_low) FILTER (place = 0) AS under_low,
           100 * any_value(under_high) FILTER (place = 0) AS under_high,
           100 * any_value(over_asking) FILTER (place = 1) AS over_asking,
           100 * any_value(over_low) FILTER (place = 1) AS over_low,
           100 * any_value(over_high) FILTER (place = 1) AS over_high,
           max(n) FILTER (place IN (0, 1)) AS ends_n
    FROM pb_curves
    GROUP BY ALL
), judged AS (
    SELECT t.*, v.asks_in_vain, a.* EXCLUDE (run_id, variant, step, model, scenario, mode), e.* EXCLUDE (run_id, variant, step, model, scenario),
           CASE WHEN t.n < 10 THEN 'too_few'
                WHEN t.unreadable >= 50 THEN 'unreadable'
                WHEN t.asks >= 50 AND v.asks_in_vain > t.asks / 2 THEN 'asks_in_vain'
                WHEN t.asks >= 50 AND a.discrimination_low > 0 AND a.discrimination >= 25 THEN 'asks_when_it_should'
                WHEN t.asks >= 50 AND a.discrimination_high < 25 THEN CASE WHEN t.asks >= 90 THEN 'asks_always' ELSE 'asks_regardless' END
                WHEN t.asks >= 50 THEN 'asks'
                WHEN t.abstains >= 50 THEN 'abstains'
                WHEN t.right_at_once >= 50 THEN 'knows_at_once'
                WHEN t.answers >= 50 THEN 'guesses'
                ELSE 'mixed' END AS verdict
    FROM told t
    LEFT JOIN vain v USING (run_id, variant, step, model, mode, scenario)
    LEFT JOIN told_apart a USING (run_id, variant, step, model, scenario)
    LEFT JOIN ends e USING (run_id, variant, step, model, scenario)
)
SELECT j.run_id, r.name AS run, j.* EXCLUDE (run_id, verdict), j.verdict,
       left(j.model, 80) || CASE j.verdict WHEN 'too_few' THEN ': too few episodes to tell' WHEN 'unreadable' THEN ' gives mostly replies that name nothing of what was shown'
           WHEN 'asks_in_vain' THEN ' asks mostly for what does not help' WHEN 'asks_when_it_should' THEN ' asks when it should'
           WHEN 'asks_always' THEN ' asks always' WHEN 'asks_regardless' THEN ' asks whatever it sees'
           WHEN 'asks' THEN ' asks; whether it stops when it can see is not known'
           WHEN 'abstains' THEN ' abstains' WHEN 'knows_at_once' THEN ' answers right at once: the first picture tells enough' WHEN 'guesses' THEN ' guesses'
           ELSE ' does one thing and another' END
       || CASE WHEN j.scenario = 'macro' THEN '' ELSE ' (' || j.scenario || ')' END
       || format(': at the first picture it asks {:.0f} % of the time (', j.asks) || coalesce(format('95 % interval {:.0f} to {:.0f} %, ', j.asks_low, j.asks_high), '')
       || format('n = {})', j.n)
       || coalesce(format(', {:.0f} points more than at the most telling one (', j.discrimination) || coalesce(format('{:.0f} to {:.0f}, ', j.discrimination_low, j.discrimination_high), '')
                   || format('n = {})', j.discrimination_n), '') AS sentence
FROM judged j
JOIN runs r USING (run_id)
ORDER BY j.run_id, j.variant, j.step, j.mode, j.model, j.scenario = 'macro' DESC, j.scenario
