-- Mixtures by their merged stand-ins, best first: weights, objective and gap to the best with 95 % intervals, beside what training on them gave and what each further stand-in foretold.
WITH known AS (
    SELECT s.run_id, s.variant, s.kind, s.mixture_id, any_value(m.domains) AS domains, any_value(m.weights) AS weights, any_value(m.source) AS source,
           any_value(m.entropy) AS entropy
    FROM (SELECT DISTINCT run_id, variant, step, kind, mixture_id FROM dmo_score) s
    JOIN dmo_mixture m USING (run_id, variant, step, mixture_id)
    GROUP BY s.run_id, s.variant, s.kind, s.mixture_id
), placed AS (
    -- Mixtures of different steps are the same where their weights are, whatever they are called.
    SELECT o.*, k.domains, k.weights, k.source, k.entropy, coalesce([round(w, 6) FOR w IN k.weights]::VARCHAR, o.mixture_id) AS point
    FROM dmo_objective o
    LEFT JOIN known k ON (k.run_id, k.variant, k.mixture_id) = (o.run_id, o.variant, o.mixture_id) AND k.kind = regexp_replace(o.kind, '/[0-9]+$', '')
), beside AS (
    SELECT run_id, variant, step, point,
           any_value(value) FILTER (kind = 'true') AS true_value, any_value(rank) FILTER (kind = 'true') AS true_rank,
           any_value(ci_low) FILTER (kind = 'true') AS true_low, any_value(ci_high) FILTER (kind = 'true') AS true_high,
           list({'kind': kind, 'value': value, 'rank': rank} ORDER BY kind) FILTER (kind <> 'true') AS predicted
    FROM placed WHERE kind <> 'proxy' GROUP BY ALL
)
SELECT p.run_id, r.name AS run, p.variant, p.step, p.rank, p.mixture_id, p.domains, p.weights, p.source, p.entropy, p.value, p.ci_low, p.ci_high,
       p.gap, p.gap_low, p.gap_high, p.gap_low <= 0 AND p.gap_high >= 0 AS indistinguishable, coalesce(p.chosen, p.rank IS NOT DISTINCT FROM 1) AS best,
       b.true_rank, b.true_value, b.true_low, b.true_high, b.predicted
FROM placed p
JOIN runs r USING (run_id)
LEFT JOIN beside b USING (run_id, variant, step, point)
WHERE p.kind = 'proxy'
ORDER BY p.run_id, p.variant, p.step, p.rank NULLS LAST, p.mixture_id
