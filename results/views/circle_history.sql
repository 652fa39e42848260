-- CIRCLE: a context picture with its labels by round (0 = pseudo-label first); streaming has a row for each query it was labelled for.
WITH rounds AS (
    SELECT run_id, variant, step, dataset, seed, slot, episode,
           list(label ORDER BY round) AS labels,
           list(flag ORDER BY round) FILTER (flag IS NOT NULL) AS flags,
           count(*) FILTER (changed AND round > 0) AS changes,
           max(round) AS rounds
    FROM circle_label
    GROUP BY run_id, variant, step, dataset, seed, slot, episode
)
SELECT run_id, variant, step, dataset, seed, slot, rounds.episode, context.sample_id, context.uri, context.true_label,
       rounds.labels, context.final_label, rounds.changes, rounds.rounds, rounds.flags
FROM circle_context context
FULL JOIN rounds USING (run_id, variant, step, dataset, seed, slot)
ORDER BY run_id, variant, step, dataset, seed, episode, slot
