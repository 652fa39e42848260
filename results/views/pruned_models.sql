-- Pruning: a model after its last stage beside the original: blocks, heads, neurons, parameters and bytes, what it retains where it was compared, with a sentence.
WITH ends AS (
    SELECT run_id, variant, step, model, max(stage) + 1 AS stages, arg_min(prune_model, stage) AS first, arg_max(prune_model, stage) AS last,
           -- a cut that is only foreseen may not know how blocks share what goes: the list is empty
           arg_max(len(heads_kept), stage) FILTER (len(heads_kept) > 0) AS blocks
    FROM prune_model GROUP BY ALL
), compared AS (
    SELECT run_id, variant, model, count(*) AS compared, any_value(avg_ratio_of_means) / 100 AS retained, any_value(ci_low) / 100 AS retained_low,
           any_value(ci_high) / 100 AS retained_high
    FROM bench_aggregate GROUP BY ALL HAVING compared = 1
), counted AS (
    SELECT e.run_id, e.variant, e.step, e.model, e.stages, e.last.format AS format, e.last.sha256 IS NULL AS foreseen,
           len(e.first.heads_kept) AS layers_original, e.blocks AS layers,
           -- which ones: unknown where only foreseen
           CASE WHEN len(e.last.layers_kept) > 0 THEN list_filter(e.first.layers_kept, layer -> NOT list_contains(e.last.layers_kept, layer)) END AS layers_removed,
           list_sum(e.first.heads_kept)::BIGINT AS heads_original, list_sum(e.last.heads_kept)::BIGINT AS heads,
           list_sum(e.first.neurons_kept)::BIGINT AS neurons_original, list_sum(e.last.neurons_kept)::BIGINT AS neurons,
           e.first.params_llm AS params_llm_original, e.last.params_llm AS params_llm, e.last.removed_fraction AS removed_fraction,
           e.first.params_total AS params_total_original, e.last.params_total AS params_total, e.last.removed_total AS removed_total,
           e.last.bytes AS bytes, e.last.sha256 AS sha256
    FROM ends e
)
SELECT c.run_id, r.name AS run, c.* EXCLUDE (run_id), k.retained, k.retained_low, k.retained_high,
       left(c.model, 80) || CASE WHEN c.foreseen THEN ' would have ' ELSE ' has ' END || format('{:.1f} %', 100 * c.removed_fraction)
       || ' fewer parameters in its language model (' || format('{:.1f} %', 100 * c.removed_total) || ' of the whole model): '
       || CASE WHEN c.layers < c.layers_original THEN (c.layers_original - c.layers) || ' of ' || c.layers_original || ' blocks removed' ELSE 'all ' || c.layers_original || ' blocks kept' END
       || CASE WHEN c.heads * c.layers_original < c.heads_original * c.layers OR c.neurons * c.layers_original < c.neurons_original * c.layers
               THEN ', the others narrower' WHEN c.heads IS NULL THEN ', how much narrower each of the others is, is not known' ELSE '' END
       || coalesce('; it keeps ' || format('{:.0f} %', 100 * k.retained) || ' of the original''s score'
                   || coalesce(format(' (95 % interval {:.0f} to {:.0f} %)', 100 * k.retained_low, 100 * k.retained_high), ''), '') AS sentence
FROM counted c
JOIN runs r USING (run_id)
LEFT JOIN compared k USING (run_id, variant, model)
ORDER BY c.run_id, c.variant, c.step, c.model
