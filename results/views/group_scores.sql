-- Classification: means over groups of datasets and over all of them, also where a sweep spreads the datasets over variants.
WITH scored AS (
    SELECT run_id, variant, step, 'open' AS world, method, prompt_key, model, NULL AS shots, level, name, metric, value, low, high,
           n, unscored, chunker, judge, encoder
    FROM owc_summary
    UNION ALL
    SELECT run_id, variant, step, 'closed', method, NULL, model, shots, level, name, metric, value, low, high, n, failures, NULL, NULL, NULL
    FROM closed_world_summary
), placed AS (
    SELECT s.*, v.setting, count(DISTINCT s.variant) OVER (PARTITION BY s.run_id, v.setting, s.world, s.step) AS variants
    FROM scored s JOIN variant_settings v USING (run_id, variant)
), alone AS (  -- the group of a variant's only dataset
    SELECT run_id, variant, step, world, any_value(name) FILTER (level = 'group') AS group_name
    FROM scored GROUP BY ALL
    HAVING count(DISTINCT name) FILTER (level = 'dataset') = 1 AND count(DISTINCT name) FILTER (level = 'group') = 1
), protocol(dataset, group_name) AS (
    VALUES ('caltech101', 'prototypical'), ('sun397', 'prototypical'), ('dtd', 'non-prototypical'), ('eurosat', 'non-prototypical'),
           ('ucf101', 'non-prototypical'), ('flowers102', 'fine-grained'), ('food101', 'fine-grained'), ('oxford_pets', 'fine-grained'),
           ('stanford_cars', 'very fine-grained'), ('fgvc_aircraft', 'very fine-grained')
), per_dataset AS (
    SELECT run_id, setting, step, world, method, prompt_key, model, shots, metric, chunker, judge, encoder, p.name AS dataset,
           any_value(coalesce(alone.group_name, protocol.group_name)) AS group_name,
           avg(value) AS value, avg(low) AS low, avg(high) AS high, max(n) AS n, max(unscored) AS unscored
    FROM placed p
    LEFT JOIN alone USING (run_id, variant, step, world)
    LEFT JOIN protocol ON protocol.dataset = p.name
    WHERE level = 'dataset' AND variants > 1
    GROUP BY run_id, setting, step, world, method, prompt_key, model, shots, metric, chunker, judge, encoder, p.name
), levels AS (
    SELECT *, 'group' AS level, group_name AS name FROM per_dataset WHERE group_name IS NOT NULL
    UNION ALL
    SELECT *, 'all', 'all' FROM per_dataset
)
SELECT run_id, setting, step, world, method, prompt_key, model, shots, level, name, metric, avg(value) AS value,
       -- Datasets are independent of each other: half widths add up as squares. Without every limit there is none.
       CASE WHEN count(low) = count(value) THEN avg(value) - sqrt(sum((value - low) ** 2)) / count(value) END AS low,
       CASE WHEN count(high) = count(value) THEN avg(value) + sqrt(sum((high - value) ** 2)) / count(value) END AS high,
       count(value) AS datasets, sum(n)::BIGINT AS n, sum(unscored)::BIGINT AS unscored, chunker, judge, encoder
FROM levels
GROUP BY run_id, setting, step, world, method, prompt_key, model, shots, level, name, metric, chunker, judge, encoder
UNION ALL
SELECT run_id, setting, step, world, method, prompt_key, model, shots, level, name, metric, value, low, high, NULL, n, unscored,
       chunker, judge, encoder
FROM placed
WHERE level <> 'dataset' AND variants = 1
