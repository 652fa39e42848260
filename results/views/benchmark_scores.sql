-- Answers to questions about pictures: a model's score on a benchmark with its 95 % interval; metrics that stand beside the one that counts have main = false.
SELECT s.run_id, r.name AS run, s.variant, s.step, s.model, s.benchmark, s.metric,
       s.metric NOT IN ('precision', 'recall', 'f1', 'yes_ratio', 'accuracy', 'accuracy_plus')
         OR count(*) OVER (PARTITION BY s.run_id, s.variant, s.step, s.model, s.benchmark) = 1 AS main,
       s.value, s.ci_low AS low, s.ci_high AS high, s.share,
       -- in shares of the full scale, as share
       CASE WHEN s.value <> 0 THEN s.ci_low * s.share / s.value WHEN s.share = s.value THEN s.ci_low END AS share_low,
       CASE WHEN s.value <> 0 THEN s.ci_high * s.share / s.value WHEN s.share = s.value THEN s.ci_high END AS share_high,
       s.n, s.n_failed, s.n_total, s.seconds, s.seconds / nullif(s.n, 0) AS seconds_each
FROM vqa_score s
JOIN runs r USING (run_id)
WHERE s.category IS NULL
ORDER BY s.run_id, s.variant, s.step, s.benchmark, s.model, main DESC, s.metric
