-- Asking for help: what a model does when the first picture is not enough and how much less it asks at the most telling one, with a verdict and a sentence to quote; in percent, macro = plain mean over scenarios.
WITH draws AS (
    SELECT run_id, variant, model, mode, scenario, count(DISTINCT draw) AS draws FROM pb_episodes GROUP BY ALL
), first_turn AS (
    -- Draws of one sample are not independent: intervals count samples.
    SELECT b.run_id, b.variant, b.step, b.model, b.mode, b.scenario, b.asked + b.invalid AS asks, b.invalid, b.abstained, b.correct, b.wrong, b.unreadable,
           b.alive AS n, b.alive / coalesce(d.draws, 1) AS m
    FROM pb_by_turn b
    LEFT JOIN draws d USING (run_id, variant, model, mode, scenario)
    WHERE b.turn = 1 AND b.mode NOT IN ('frames', 'reference') AND b.alive > 0
), shares AS (
    SELECT *, unnest(['asks', 'vain', 'abstains', 'answers', 'right', 'unreadable']) AS kind,
           unnest([asks, invalid, abstained, correct + wrong, correct, unreadable]) AS share
    FROM first_turn
), limited AS (
    -- Wilson's interval; 3.8415 is the square of 1.96.
    SELECT run_id, variant, step, model, mode, scenario, n, kind, share, (share + 3.8415 / (2 * m)) / (1 + 3.8415 / m) AS centre,
           1.96 / (1 + 3.8415 / m) * sqrt(greatest(0, share * (1 - share)) / m + 3.8415 / (4 * m ** 2)) AS half
    FROM shares
), bounded AS (
    SELECT * EXCLUDE (centre, half), least(share, greatest(0, centre - half)) AS low, greatest(share, least(1, centre + half)) AS high FROM limited
), all_of_them AS (
    SELECT * FROM bounded
    UNION ALL
    -- The limits of a mean of independent estimates: distances join as the root of their squares.
    SELECT run_id, variant, step, model, mode, 'macro', sum(n)::BIGINT, kind, avg(share), avg(share) - sqrt(sum((share - low) ** 2)) / count(*),
           avg(share) + sqrt(sum((high - share) ** 2)) / count(*)
    FROM bounded
    GROUP BY ALL
), told AS (
    SELECT run_id, variant, step, model, mode, scenario, n,
           100 * max(share) FILTER (kind = 'asks') AS asks,
           100 * max(low) FILTER (kind = 'asks') AS asks_low,
           100 * max(high) FILTER (kind = 'asks') AS asks_high,
           100 * max(share) FILTER (kind = 'vain') AS asks_in_vain,
           100 * max(low) FILTER (kind = 'vain') AS asks_in_vain_low,
           100 * max(high) FILTER (kind = 'vain') AS asks_in_vain_high,
           100 * max(share) FILTER (kind = 'abstains') AS abstains,
           100 * max(low) FILTER (kind = 'abstains') AS abstains_low,
           100 * max(high) FILTER (kind = 'abstains') AS abstains_high,
           100 * max(share) FILTER (kind = 'answers') AS answers,
           100 * max(low) FILTER (kind = 'answers') AS answers_low,
           100 * max(high) FILTER (kind = 'answers') AS answers_high,
           100 * max(share) FILTER (kind = 'right') AS right_at_once,
           100 * max(low) FILTER (kind = 'right') AS right_at_once_low,
           100 * max(high) FILTER (kind = 'right') AS right_at_once_high,
           100 * max(share) FILTER (kind = 'unreadable') AS unreadable,
           100 * max(low) FILTER (kind = 'unreadable') AS unreadable_low,
           100 * max(high) FILTER (kind = 'unreadable') AS unreadable_high
    FROM all_of_them
    GROUP BY ALL
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
    SELECT t.*, a.* EXCLUDE (run_id, variant, step, model, scenario, mode), e.* EXCLUDE (run_id, variant, step, model, scenario),
           CASE WHEN t.n < 10 THEN 'too_few'
                WHEN t.unreadable >= 50 THEN 'unreadable'
                WHEN t.asks >= 50 AND t.asks_in_vain > t.asks / 2 THEN 'asks_in_vain'
                WHEN t.asks >= 50 AND a.discrimination_low > 0 AND a.discrimination >= 25 THEN 'asks_when_it_should'
                WHEN t.asks >= 50 AND a.discrimination_high < 25 THEN 'asks_always'
                WHEN t.asks >= 50 THEN 'asks'
                WHEN t.abstains >= 50 THEN 'abstains'
                WHEN t.right_at_once >= 50 THEN 'knows_at_once'
                WHEN t.answers >= 50 THEN 'guesses'
                ELSE 'mixed' END AS verdict
    FROM told t
    LEFT JOIN told_apart a USING (run_id, variant, step, model, scenario)
    LEFT JOIN ends e USING (run_id, variant, step, model, scenario)
)
SELECT j.run_id, r.name AS run, j.* EXCLUDE (run_id, verdict), j.verdict,
       left(j.model, 80) || CASE j.verdict WHEN 'too_few' THEN ': too few episodes to tell' WHEN 'unreadable' THEN ' gives mostly replies that name nothing of what was shown'
           WHEN 'asks_in_vain' THEN ' asks mostly for what does not help' WHEN 'asks_when_it_should' THEN ' asks when it should'
           WHEN 'asks_always' THEN ' asks always' WHEN 'asks' THEN ' asks; whether it stops when it can see is not known'
           WHEN 'abstains' THEN ' abstains' WHEN 'knows_at_once' THEN ' answers right at once: the first picture tells enough' WHEN 'guesses' THEN ' guesses'
           ELSE ' does one thing and another' END
       || CASE WHEN j.scenario = 'macro' THEN '' ELSE ' (' || j.scenario || ')' END
       || format(': at the first picture it asks {:.0f} % of the time (95 % interval {:.0f} to {:.0f} %, n = {})', j.asks, j.asks_low, j.asks_high, j.n)
       || coalesce(format(', {:.0f} points more than at the most telling one ({:.0f} to {:.0f}, n = {})', j.discrimination, j.discrimination_low, j.discrimination_high,
                          j.discrimination_n), '') AS sentence
FROM judged j
JOIN runs r USING (run_id)
ORDER BY j.run_id, j.variant, j.step, j.mode, j.model, j.scenario = 'macro' DESC, j.scenario
