-- Language-model calls, tokens, time and cost by run, step and model; replies from the cache are counted apart.
SELECT run_id, variant, step, provider, model, purpose,
       count(*) FILTER (NOT cached) AS calls,
       count(*) FILTER (cached) AS cached,
       count(*) FILTER (outcome = 'repaired') AS repaired,
       count(*) FILTER (outcome IN ('item', 'run')) AS given_up,
       coalesce(sum(attempts) FILTER (NOT cached), 0)::BIGINT AS requests,
       coalesce(sum(prompt_tokens) FILTER (NOT cached), 0)::BIGINT AS prompt_tokens,
       coalesce(sum(completion_tokens) FILTER (NOT cached), 0)::BIGINT AS completion_tokens,
       sum(cost) FILTER (NOT cached) AS cost,
       sum(ms) FILTER (NOT cached) / 1000 AS seconds
FROM llm_calls
GROUP BY ALL
ORDER BY run_id, variant, step, purpose
