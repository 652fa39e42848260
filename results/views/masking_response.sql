-- Concept predictors: how much a part's concepts change when that part is hidden, or another; locality 0.5 = it does not matter which.
SELECT *,
       CASE verdict
         WHEN 'local' THEN
           'Hiding a part changes what ' || left(predictor, 80) || ' says of that part more than hiding another part does (locality ' || told || '; 0.5 = it does not matter which part is hidden, 1 = only the part itself matters)'
         WHEN 'not_local' THEN
           'For ' || left(predictor, 80) || ' it hardly matters which part is hidden: what it says of a part changes as much when another part is hidden (locality ' || told || ', where 0.5 means no difference)'
         WHEN 'reversed' THEN
           'What ' || left(predictor, 80) || ' says of a part changes more when another part is hidden than when the part itself is (locality ' || told || ', where 0.5 means no difference)'
         ELSE
           'Whether ' || left(predictor, 80) || ' looks at the part it speaks of cannot be told from these pictures' || coalesce(' (locality ' || told || ', where 0.5 means no difference)', '')
       END AS sentence
FROM (SELECT *, format('{:.2f} [{:.2f}, {:.2f}]', locality_score, locality_low, locality_high) AS told,
             CASE WHEN locality_low > 0.5 AND locality_score > 0.55 THEN 'local' WHEN locality_high < 0.5 AND locality_score < 0.45 THEN 'reversed'
                  WHEN locality_low > 0.4 AND locality_high < 0.6 THEN 'not_local' ELSE 'cannot_be_told' END AS verdict
      FROM (SELECT run_id, variant, step, dataset, predictor,
                   any_value(value) FILTER (measure = 'own') AS own,
                   any_value(value) FILTER (measure = 'other') AS other,
                   any_value(value) FILTER (measure = 'locality_score') AS locality_score,
                   any_value(ci_low) FILTER (measure = 'locality_score') AS locality_low,
                   any_value(ci_high) FILTER (measure = 'locality_score') AS locality_high,
                   any_value(value) FILTER (measure = 'accuracy') AS accuracy,
                   any_value(value) FILTER (measure = 'auroc') AS auroc,
                   max(n) AS n, max(n_groups) AS n_groups
            FROM leak_locality WHERE concept IS NULL
            GROUP BY run_id, variant, step, dataset, predictor
            HAVING bool_or(measure IN ('own', 'other', 'locality_score'))))
ORDER BY run_id, variant, step, dataset, predictor
