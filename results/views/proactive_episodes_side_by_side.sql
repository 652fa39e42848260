-- Asking for help: a sample with how every model ended, who succeeded, and how far they disagree (0 = all alike, 0.5 = half of them succeeded). Modes frames and exact are left out.
WITH said AS (
    SELECT run_id, variant, step, model, episode_id, any_value(source_id) AS source_id,
           string_agg(coalesce(options[matched_index + 1], '(' || coalesce(nullif(left(answer, 40), ''), 'nothing') || ')'), ' > ' ORDER BY turn) FILTER (NOT forced) AS chose
    FROM pb_turns
    GROUP BY ALL
), asked AS (
    SELECT run_id, variant, scenario, sample_id, source_id, any_value(question) AS question, any_value(answer) AS truth
    FROM pb_samples
    GROUP BY ALL
), told AS (
    SELECT e.*, s.chose,
           -- An episode without turns is put to the only source of its sample.
           coalesce(s.source_id, (SELECT CASE WHEN count(*) = 1 THEN any_value(a.source_id) END FROM asked a
                                  WHERE (a.run_id, a.variant, a.scenario, a.sample_id) = (e.run_id, e.variant, e.scenario, e.sample_id))) AS source_id,
           concat_ws(' · ', e.model, CASE WHEN e.mode <> 'mcqa' THEN e.mode END, CASE WHEN e.draw > 0 THEN 'draw ' || e.draw END) AS who
    FROM pb_episodes e
    LEFT JOIN said s USING (run_id, variant, step, model, episode_id)
    WHERE e.mode NOT IN ('frames', 'exact')
)
SELECT t.run_id, r.name AS run, t.variant, t.scenario, t.sample_id, t.source_id, any_value(a.question) AS question, any_value(a.truth) AS truth,
       count(*) AS episodes, count(*) FILTER (t.success) AS successes, count(*) FILTER (t.status = 'error') AS errors,
       0.5 - abs(avg(t.success::INTEGER) - 0.5) AS disagreement,
       list(t.who || ': ' || coalesce(t.stop_reason, '?') || coalesce(' after ' || t.interventions::BIGINT || ' met', '') || coalesce(' (' || t.chose || ')', '')
            ORDER BY t.who, t.step) AS how,
       list(t.who ORDER BY t.who) FILTER (t.success) AS solved_by,
       list(t.who ORDER BY t.who) FILTER (NOT t.success) AS not_by
FROM told t
JOIN runs r USING (run_id)
LEFT JOIN asked a ON (a.run_id, a.variant, a.scenario, a.sample_id) = (t.run_id, t.variant, t.scenario, t.sample_id) AND a.source_id = t.source_id
GROUP BY t.run_id, r.name, t.variant, t.scenario, t.sample_id, t.source_id
ORDER BY t.run_id, t.variant, t.scenario, disagreement DESC NULLS LAST, successes, t.sample_id
