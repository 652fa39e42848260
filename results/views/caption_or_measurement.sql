-- C2B: attributes judged both by caption and by measurement, side by side.
SELECT run_id, run, variant, step, target, attribute, value,
       any_value(verdict) FILTER (value_source = 'caption') AS by_caption,
       any_value(phi) FILTER (value_source = 'caption') AS phi_by_caption,
       any_value(n) FILTER (value_source = 'caption') AS n_by_caption,
       any_value(verdict) FILTER (value_source = 'measured') AS by_measurement,
       any_value(phi) FILTER (value_source = 'measured') AS phi_by_measurement,
       any_value(n) FILTER (value_source = 'measured') AS n_by_measurement,
       any_value(measure) AS measure
FROM verdicts
GROUP BY run_id, run, variant, step, target, attribute, value
HAVING count(DISTINCT value_source) = 2
ORDER BY run_id, variant, target, attribute, value
