-- CIRCLE: what the calls of each kind cost. Seconds and tokens are those of calls that were really made; calls wait side by side, so that their seconds add up to more than the clock's.
SELECT run_id, variant, step, dataset, seed, kind,
       count(*) AS calls,
       count(*) FILTER (NOT cached) AS made,
       count(*) FILTER (cached) AS from_cache,
       sum(n_images)::BIGINT AS images,
       sum(prompt_tokens) FILTER (NOT cached)::BIGINT AS prompt_tokens,
       sum(cached_tokens) FILTER (NOT cached)::BIGINT AS prefix_tokens,
       -- Of calls for which the server says both.
       sum(cached_tokens) FILTER (NOT cached AND prompt_tokens IS NOT NULL)
           / nullif(sum(prompt_tokens) FILTER (NOT cached AND cached_tokens IS NOT NULL), 0) AS prefix_share,
       sum(output_tokens) FILTER (NOT cached)::BIGINT AS output_tokens,
       sum(ms) FILTER (NOT cached) / 1000 AS seconds,
       count(failure) AS failures
FROM circle_call
GROUP BY run_id, variant, step, dataset, seed, kind
ORDER BY run_id, variant, step, dataset, seed, kind
