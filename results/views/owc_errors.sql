-- Open world: why answers fail; a cell of the error table with its share of the scored answers and a 95 % interval (Wilson).
WITH counted AS (
    SELECT *, sum(n) OVER (PARTITION BY run_id, variant, step, method, prompt_key, model, dataset, taxonomy) AS scored
    FROM owc_error_cell
)
SELECT run_id, variant, setting, step, method, model, prompt_key, dataset, taxonomy, cell, n, scored::BIGINT AS scored, share,
       CASE WHEN scored > 0 THEN greatest(0, (share + 1.9207294 / scored - 1.959964 * sqrt(share * (1 - share) / scored + 0.9603647 / scored ** 2))
           / (1 + 3.8414589 / scored)) END AS low,
       CASE WHEN scored > 0 THEN least(1, (share + 1.9207294 / scored + 1.959964 * sqrt(share * (1 - share) / scored + 0.9603647 / scored ** 2))
           / (1 + 3.8414589 / scored)) END AS high,
       threshold
FROM counted
LEFT JOIN variant_settings USING (run_id, variant)
ORDER BY run_id, variant, step, method, model, prompt_key, dataset, taxonomy, n DESC
