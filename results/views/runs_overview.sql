-- One line a run: status, time, steps, findings, failures, language-model calls and cost.
SELECT r.run_id, r.name, r.status, r.created, r.seconds, r.profile,
       (SELECT count(*) FROM variants v WHERE v.run_id = r.run_id) AS variants,
       (SELECT count(*) FROM run_steps s WHERE s.run_id = r.run_id) AS steps,
       (SELECT count(*) FROM run_steps s WHERE s.run_id = r.run_id AND s.status = 'cached') AS cached_steps,
       (SELECT count(*) FROM c2b_group g WHERE g.run_id = r.run_id) AS groups,
       (SELECT count(*) FROM c2b_group g WHERE g.run_id = r.run_id AND g.verdict = 'disfavoured') AS worse,
       (SELECT count(*) FROM c2b_group g WHERE g.run_id = r.run_id AND g.verdict = 'favoured') AS better,
       (SELECT count(*) FROM messages m WHERE m.run_id = r.run_id AND m.level = 'failed') AS failed_items,
       (SELECT count(*) FROM llm_calls l WHERE l.run_id = r.run_id AND NOT l.cached) AS llm_calls,
       (SELECT sum(l.cost) FROM llm_calls l WHERE l.run_id = r.run_id AND NOT l.cached) AS llm_cost,
       r.error
FROM runs r
ORDER BY r.created DESC
