-- A smaller, trained or merged model beside its original: one row a benchmark, and benchmark = 'all' for the ratio of means, with 95 % intervals and a sentence.
WITH told AS (
    SELECT run_id, variant, step, model, benchmark, metric, value, value_original, retained, NULL::DOUBLE AS retained_low, NULL::DOUBLE AS retained_high,
           difference, ci_low AS difference_low, ci_high AS difference_high, n, 1 AS benchmarks,
           CASE WHEN ci_high < 0 THEN 'worse' WHEN ci_low > 0 THEN 'better' ELSE 'cannot_be_told' END AS verdict
    FROM bench_score
    UNION ALL
    SELECT run_id, variant, step, model, 'all', 'mean of shares', NULL, NULL, avg_ratio_of_means / 100, ci_low / 100, ci_high / 100,
           d.difference, NULL, NULL, coalesce(d.n, 0), a.benchmarks,
           CASE WHEN ci_high < 100 THEN 'worse' WHEN ci_low > 100 THEN 'better' ELSE 'cannot_be_told' END
    FROM bench_aggregate a
    LEFT JOIN (SELECT run_id, variant, step, model, avg(difference) AS difference, sum(n)::BIGINT AS n FROM bench_score GROUP BY ALL) d
      USING (run_id, variant, step, model)
)
SELECT t.run_id, r.name AS run, t.* EXCLUDE (run_id),
       CASE WHEN t.model IN (SELECT p.model FROM prune_model p WHERE (p.run_id, p.variant) = (t.run_id, t.variant)) THEN 'cut'
            WHEN t.model IN (SELECT p.model FROM recovery_step p WHERE (p.run_id, p.variant) = (t.run_id, t.variant)) THEN 'trained' END AS made_by,
       CASE WHEN t.retained IS NULL THEN left(t.model, 80) || ' cannot be put beside the original on ' || left(t.benchmark, 60) || ': there is no score, or the original scores 0'
            WHEN t.benchmark = 'all' THEN
              left(t.model, 80) || ' keeps ' || format('{:.0f} %', 100 * t.retained) || ' of the original''s score'
              || coalesce(format(' (95 % interval {:.0f} to {:.0f} %)', 100 * t.retained_low, 100 * t.retained_high), '')
              || ' over ' || t.benchmarks || CASE WHEN t.benchmarks = 1 THEN ' benchmark' ELSE ' benchmarks' END
              || CASE t.verdict WHEN 'worse' THEN ': it is worse' WHEN 'better' THEN ': it is better' ELSE ': whether it is better or worse cannot be told from these questions' END
            ELSE left(t.model, 80) || ' on ' || left(t.benchmark, 60) || ': ' || format('{:+.1f} points', 100 * t.difference)
              || coalesce(format(' ({:+.1f} to {:+.1f})', 100 * t.difference_low, 100 * t.difference_high), '')
              || CASE WHEN t.difference_low IS NULL THEN ', without an interval' WHEN t.verdict = 'worse' THEN ', worse' WHEN t.verdict = 'better' THEN ', better'
                      ELSE ', which cannot be told from none' END
       END AS sentence
FROM told t
JOIN runs r USING (run_id)
ORDER BY t.run_id, t.variant, t.step, t.model, t.benchmark = 'all' DESC, t.benchmark
