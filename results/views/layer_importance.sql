-- Pruning: how important each decoder block is by each criterion, relative to the most important one, and whether it was removed (rounds of one stage are joined).
SELECT s.run_id, r.name AS run, s.variant, s.step, s.model, s.stage, s.criterion, s.layer,
       coalesce(s.score_mean, s.score_sum) AS score,
       coalesce(s.score_mean, s.score_sum) / nullif(max(abs(coalesce(s.score_mean, s.score_sum)))
         OVER (PARTITION BY s.run_id, s.variant, s.step, s.model, s.stage, s.criterion), 0) AS relative,
       s.n_tokens, s.rank, s.removed
FROM (SELECT * FROM prune_layer_score
      QUALIFY row_number() OVER (PARTITION BY run_id, variant, step, model, stage, criterion, layer
                                 ORDER BY removed DESC NULLS LAST, rank, score_mean) = 1) s
JOIN runs r USING (run_id)
ORDER BY s.run_id, s.variant, s.step, s.model, s.stage, s.criterion, s.layer
