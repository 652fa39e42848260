-- How far the ranking by stand-ins agrees with that of models really trained on the mixtures, by task, with interval, p-value and a sentence.
WITH named AS (
    SELECT *, regexp_extract(kind, '/([0-9]+)$', 1) AS number, regexp_replace(regexp_extract(kind, '^regression/(.*?)(/[0-9]+)?$', 1), '_', ' ', 'g') AS model FROM dmo_validity
), worded AS (
    SELECT * EXCLUDE (number, model), CASE WHEN kind LIKE 'proxy%' THEN 'merged stand-ins' ELSE 'regression' END || CASE WHEN model <> '' THEN ' (' || left(model, 60) || ')' ELSE '' END
           || CASE WHEN number <> '' THEN ' no. ' || number ELSE '' END AS who
    FROM named
)
SELECT v.run_id, r.name AS run, v.* EXCLUDE (run_id, who),
       CASE WHEN spearman IS NULL OR spearman_low IS NULL THEN 'cannot_be_told' WHEN spearman_low > 0 THEN 'agrees' WHEN spearman_high < 0 THEN 'reversed'
            ELSE 'cannot_be_told' END AS verdict,
       CASE WHEN spearman IS NULL THEN
              'Whether ' || CASE WHEN kind LIKE 'regression%' THEN 'predictions by ' ELSE 'the ' END || who || ' rank ' || v.n || ' mixtures as training on them would cannot be computed ('
              || left(task, 60) || ')'
            ELSE 'By ' || left(task, 60) || ', the ranking of ' || v.n || ' mixtures by ' || who
              || CASE WHEN spearman_low > 0 THEN ' agrees with that of really trained models' WHEN spearman_high < 0 THEN ' runs against that of really trained models'
                      ELSE ' cannot be told from one by chance' END
              || format(' (rank correlation {:.2f}', spearman) || coalesce(format(', 95 % interval {:.2f} to {:.2f}', spearman_low, spearman_high), '')
              || coalesce(CASE WHEN p_value < 0.001 THEN ', p < 0.001' ELSE format(', p = {:.3f}', p_value) END, '') || ')'
              || CASE WHEN v.n < 10 THEN '; so few mixtures make it fragile' ELSE '' END
       END AS sentence
FROM worded v
JOIN runs r USING (run_id)
ORDER BY v.run_id, v.variant, v.step, v.kind, v.task <> 'objective', v.task
