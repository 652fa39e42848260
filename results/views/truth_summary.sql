-- C2B: how often the audit's verdicts agree with hidden labels, by verdict and agreement.
SELECT run_id, variant, step, verdict, agreement, count(*) AS groups,
       avg(true_target_precision) AS mean_target_precision
FROM c2b_truth
GROUP BY ALL
ORDER BY run_id, variant, step, verdict, agreement
