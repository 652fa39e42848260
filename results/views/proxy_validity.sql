-- How far the ranking by stand-ins agrees with that of models really trained on the mixtures, by task, with interval, p-value and a sentence.
SELECT v.run_id, r.name AS run, v.* EXCLUDE (run_id),
       CASE WHEN spearman IS NULL OR spearman_low IS NULL THEN 'cannot_be_told' WHEN spearman_low > 0 THEN 'agrees' WHEN spearman_high < 0 THEN 'reversed'
            ELSE 'cannot_be_told' END AS verdict,
       CASE WHEN spearman IS NULL THEN
              'Whether the ' || CASE WHEN kind = 'proxy' THEN 'merged stand-ins' ELSE 'predictions by regression' END || ' rank ' || v.n || ' mixtures as training on them would cannot be computed ('
              || left(task, 60) || ')'
            ELSE 'By ' || left(task, 60) || ', the ranking of ' || v.n || ' mixtures by ' || CASE WHEN kind = 'proxy' THEN 'merged stand-ins' ELSE 'regression' END
              || CASE WHEN spearman_low > 0 THEN ' agrees with that of really trained models' WHEN spearman_high < 0 THEN ' runs against that of really trained models'
                      ELSE ' cannot be told from one by chance' END
              || format(' (rank correlation {:.2f}', spearman) || coalesce(format(', 95 % interval {:.2f} to {:.2f}', spearman_low, spearman_high), '')
              || coalesce(CASE WHEN p_value < 0.001 THEN ', p < 0.001' ELSE format(', p = {:.3f}', p_value) END, '') || ')'
              || CASE WHEN v.n < 10 THEN '; so few mixtures make it fragile' ELSE '' END
       END AS sentence
FROM dmo_validity v
JOIN runs r USING (run_id)
ORDER BY v.run_id, v.variant, v.step, v.kind, v.task <> 'objective', v.task
