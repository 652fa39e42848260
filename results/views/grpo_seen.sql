-- Training to ask by rewards: a step whose answers were kept, by whether the object could be seen (at least half of it) or not: share that asks, with 95 % interval.
WITH asked AS (
    SELECT *, regexp_extract(prompt_id, '^([^/]+)/(.*)/(\d+)$', ['scenario', 'sample', 'frame']) AS about FROM grpo_rollouts
), shown AS (
    -- By file of the sample, whose names end in the number of the frame; where there is one file, by number of requests.
    SELECT run_id, variant, scenario, sample_id, visible,
           list_transform(uris, u -> try_cast(regexp_extract(u, '(\d+)\D*$', 1) AS INTEGER)) AS frames
    FROM pb_samples
    WHERE visible IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY run_id, variant, scenario, sample_id ORDER BY split <> 'train', step) = 1
), told AS (
    SELECT a.run_id, a.variant, a.step, a.model, a.train_step, a.prompt_id, a.matched_kind,
           CASE WHEN len(s.frames) = 1 THEN s.visible[a.about.frame::INTEGER + 1] ELSE s.visible[list_position(s.frames, a.about.frame::INTEGER)] END AS visible
    FROM asked a
    JOIN shown s ON (s.run_id, s.variant, s.scenario, s.sample_id) = (a.run_id, a.variant, a.about.scenario, a.about.sample)
), counted AS (
    -- Answers to one prompt are not independent: intervals count prompts.
    SELECT run_id, variant, step, model, train_step, visible >= 0.5 AS seen, count(*) AS answers, count(DISTINCT prompt_id) AS n,
           avg((coalesce(matched_kind, '') IN ('ask_valid', 'ask_invalid'))::INTEGER) AS asked,
           avg((coalesce(matched_kind, '') = 'category_true')::INTEGER) AS correct
    FROM told
    WHERE visible IS NOT NULL
    GROUP BY ALL
)
SELECT c.run_id, r.name AS run, c.* EXCLUDE (run_id),
       greatest(0, (asked + 3.8415 / (2 * n)) / (1 + 3.8415 / n) - 1.96 / (1 + 3.8415 / n) * sqrt(asked * (1 - asked) / n + 3.8415 / (4 * n ** 2))) AS asked_low,
       least(1, (asked + 3.8415 / (2 * n)) / (1 + 3.8415 / n) + 1.96 / (1 + 3.8415 / n) * sqrt(asked * (1 - asked) / n + 3.8415 / (4 * n ** 2))) AS asked_high
FROM counted c
JOIN runs r USING (run_id)
ORDER BY c.run_id, c.variant, c.step, c.model, c.train_step, c.seen
