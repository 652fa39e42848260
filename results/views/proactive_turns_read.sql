-- Asking for help: a turn with what was shown, said and chosen, what it led to, and how the episode ended.
SELECT t.run_id, r.name AS run, t.variant, t.step, t.model, e.mode, e.scenario, e.sample_id, e.draw, t.episode_id, t.turn, t.forced, t.place, t.frame, t.uri, t.crop,
       s.question, s.answer AS truth, t.options, t.answer AS said, t.match_kind, t.options[t.matched_index + 1] AS chose, t.matched_kind,
       t.action, t.next_frame,
       CASE WHEN t.action IS NOT NULL THEN t.action || coalesce(' to frame ' || t.next_frame, '')
            WHEN e.mode IN ('frames', 'exact') THEN NULL
            WHEN t.turn = max(t.turn) OVER (PARTITION BY t.run_id, t.variant, t.step, t.model, t.episode_id) THEN e.stop_reason END AS led_to,
       e.stop_reason, e.success, e.status
FROM pb_turns t
JOIN runs r USING (run_id)
JOIN pb_episodes e USING (run_id, variant, step, model, episode_id)
LEFT JOIN (SELECT run_id, variant, scenario, sample_id, source_id, any_value(question) AS question, any_value(answer) AS answer FROM pb_samples GROUP BY ALL) s
  ON (s.run_id, s.variant, s.scenario, s.sample_id, s.source_id) = (e.run_id, e.variant, e.scenario, e.sample_id, t.source_id)
ORDER BY t.run_id, t.variant, t.step, t.model, t.episode_id, t.turn, t.forced
