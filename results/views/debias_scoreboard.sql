-- Debiasing: a method on a dataset in one row, its metrics with 95 % intervals by picture or cluster of pictures (retrieval: as published, over halves and queries).
SELECT s.run_id, r.name AS run, s.variant, v.setting, s.step, s.dataset, s.backbone, s.attribute, s.task, s.method,
       any_value(mean) FILTER (metric = 'accuracy') AS accuracy,
       any_value(ci_low) FILTER (metric = 'accuracy') AS accuracy_low,
       any_value(ci_high) FILTER (metric = 'accuracy') AS accuracy_high,
       any_value(mean) FILTER (metric = 'worst_group') AS worst_group,
       any_value(ci_low) FILTER (metric = 'worst_group') AS worst_group_low,
       any_value(ci_high) FILTER (metric = 'worst_group') AS worst_group_high,
       any_value(mean) FILTER (metric = 'gap') AS gap,
       any_value(ci_low) FILTER (metric = 'gap') AS gap_low,
       any_value(ci_high) FILTER (metric = 'gap') AS gap_high,
       any_value(mean) FILTER (metric = 'kl') AS kl,
       any_value(ci_low) FILTER (metric = 'kl') AS kl_low,
       any_value(ci_high) FILTER (metric = 'kl') AS kl_high,
       any_value(mean) FILTER (metric = 'max_skew') AS max_skew,
       any_value(ci_low) FILTER (metric = 'max_skew') AS max_skew_low,
       any_value(ci_high) FILTER (metric = 'max_skew') AS max_skew_high,
       any_value(mean) FILTER (metric = 'precision') AS "precision",
       any_value(ci_low) FILTER (metric = 'precision') AS precision_low,
       any_value(ci_high) FILTER (metric = 'precision') AS precision_high,
       max(s.n) AS n, any_value(s.ci_kind) AS ci_kind
FROM (SELECT * FROM debias_summary
      QUALIFY row_number() OVER (PARTITION BY run_id, variant, step, dataset, backbone, attribute, task, method, metric
                                 ORDER BY ci_kind != 'by_cluster', ci_kind != 'by_image', ci_kind != 'by_fold') = 1) s
JOIN runs r USING (run_id)
JOIN variant_settings v USING (run_id, variant)
GROUP BY s.run_id, r.name, s.variant, v.setting, s.step, s.dataset, s.backbone, s.attribute, s.task, s.method
ORDER BY s.run_id, s.variant, s.task, s.dataset, s.attribute, s.backbone, worst_group DESC NULLS LAST, kl NULLS LAST
