-- CIRCLE: for each picture what a method with context answers right that the same model without context does not, and the reverse.
WITH answered AS (
    SELECT s.*, p.source_id, p.uri, p.step AS answered_by, t.uses,
           s.method = 'zero_shot' OR (t.uses = 'owc.ask' AND s.prompt_key = 'base') AS baseline,
           count(DISTINCT s.seed) OVER (PARTITION BY s.run_id, s.variant, s.step, s.method, s.prompt_key, s.model, s.dataset) AS seeds
    FROM owc_score s
    JOIN owc_prediction p USING (run_id, variant, method, prompt_key, model, dataset, sample_id, seed)
    LEFT JOIN run_steps t ON (t.run_id, t.variant, t.step) = (p.run_id, p.variant, p.step)
), paired AS (
    SELECT c.run_id, c.variant, c.step, c.model, c.dataset, c.sample_id, c.seed, c.source_id, c.uri, c.target, c.method,
           b.method AS baseline, b.prompt_key AS baseline_prompt, c.prediction, b.prediction AS baseline_prediction,
           -- The judge decides where it judged both; else whether the label stands in the answer.
           CASE WHEN c.llama_inclusion IS NOT NULL AND b.llama_inclusion IS NOT NULL THEN 'llama_inclusion' ELSE 'text_inclusion' END AS decided_by,
           CASE WHEN decided_by = 'llama_inclusion' THEN c.llama_inclusion = 1 ELSE c.text_inclusion END AS correct,
           CASE WHEN decided_by = 'llama_inclusion' THEN b.llama_inclusion = 1 ELSE b.text_inclusion END AS baseline_correct,
           c.bcs - b.bcs AS bcs_change, c.mcs - b.mcs AS mcs_change
    FROM answered c
    JOIN answered b ON (b.run_id, b.variant, b.step, b.model, b.dataset, b.sample_id)
                     = (c.run_id, c.variant, c.step, c.model, c.dataset, c.sample_id)
        AND (b.seed = c.seed OR b.seeds = 1)
    WHERE NOT c.baseline AND b.baseline AND c.uses LIKE 'circle.%'
)
SELECT *, CASE WHEN correct AND NOT baseline_correct THEN 'gained' WHEN baseline_correct AND NOT correct THEN 'lost'
               WHEN correct THEN 'both right' ELSE 'both wrong' END AS outcome
FROM paired
ORDER BY run_id, variant, step, dataset, method, sample_id, seed
