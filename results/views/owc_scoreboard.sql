-- Open world: a method on a dataset in one row, its main scores with 95 % intervals, list length and what was not scored.
WITH lengths AS (
    SELECT run_id, variant, step, method, prompt_key, model, dataset, avg(n_items) AS items FROM owc_score GROUP BY ALL
)
SELECT s.run_id, r.name AS run, s.variant, v.setting, s.step, s.method, s.model, s.prompt_key, s.name AS dataset,
       max(s.n + s.unscored) AS answers,
       any_value(s.value) FILTER (metric = 'llama_inclusion') AS li,
       any_value(s.low) FILTER (metric = 'llama_inclusion') AS li_low,
       any_value(s.high) FILTER (metric = 'llama_inclusion') AS li_high,
       any_value(s.unscored) FILTER (metric = 'llama_inclusion') AS li_unscored,
       any_value(s.value) FILTER (metric = 'llama_inclusion_first') AS li_first,
       any_value(l.items) AS items,
       any_value(s.value) FILTER (metric = 'text_inclusion') AS ti,
       any_value(s.low) FILTER (metric = 'text_inclusion') AS ti_low,
       any_value(s.high) FILTER (metric = 'text_inclusion') AS ti_high,
       any_value(s.value) FILTER (metric = 'semantic_similarity') AS ss,
       any_value(s.low) FILTER (metric = 'semantic_similarity') AS ss_low,
       any_value(s.high) FILTER (metric = 'semantic_similarity') AS ss_high,
       any_value(s.value) FILTER (metric = 'bcs') AS bcs,
       any_value(s.low) FILTER (metric = 'bcs') AS bcs_low,
       any_value(s.high) FILTER (metric = 'bcs') AS bcs_high,
       any_value(s.value) FILTER (metric = 'mcs') AS mcs,
       any_value(s.low) FILTER (metric = 'mcs') AS mcs_low,
       any_value(s.high) FILTER (metric = 'mcs') AS mcs_high,
       any_value(s.unscored) FILTER (metric = 'bcs') AS similarity_unscored,
       max(s.seeds) AS seeds, any_value(s.judge) AS judge, any_value(s.chunker) AS chunker, any_value(s.encoder) AS encoder
FROM owc_summary s
JOIN runs r USING (run_id)
JOIN variant_settings v USING (run_id, variant)
LEFT JOIN lengths l ON (l.run_id, l.variant, l.step, l.method, l.prompt_key, l.model, l.dataset)
                     = (s.run_id, s.variant, s.step, s.method, s.prompt_key, s.model, s.name)
WHERE s.level = 'dataset'
GROUP BY s.run_id, r.name, s.variant, v.setting, s.step, s.method, s.model, s.prompt_key, s.name
ORDER BY s.run_id, s.variant, s.name, li DESC NULLS LAST, bcs DESC NULLS LAST
