-- C2B: the edges of each measured group; one row a group.
SELECT run_id, variant, target, attribute, value, any_value(measure) AS measure, any_value(unit) AS unit,
       any_value(low) AS low, any_value(high) AS high, any_value(category) AS category, any_value(rule) AS rule,
       any_value(pool) AS pool
FROM c2b_bin
GROUP BY run_id, variant, target, attribute, value
