-- Training to ask by rewards: means over at most 40 stretches of steps a model (intervals over the steps of a stretch); collapsed: in the last stretch it asks always (over 0.9) and the reward of the last half of training does not move.
WITH told AS (
    SELECT *, (train_step - 1) * least(40, last) // last AS stretch
    FROM (SELECT *, max(train_step) OVER (PARTITION BY run_id, variant, step, model) AS last FROM grpo_steps)
), stretches AS (
    SELECT run_id, variant, step, model, stretch, min(train_step) AS first_step, max(train_step) AS last_step, count(*) AS steps,
           avg(reward_mean) AS reward, 1.96 * stddev_samp(reward_mean) / sqrt(count(reward_mean)) AS half,
           avg(frac_zero_std) AS zero_groups, avg(share_ask) AS asked, avg(share_correct) AS correct,
           avg(share_wrong) AS wrong, avg(share_abstain) AS abstained, avg(share_unreadable) AS unreadable, avg(kl) AS kl, avg(entropy) AS entropy,
           avg(clip_frac) AS clipped, avg(completion_len) AS completion_len, arg_max(lr, train_step) AS lr, max(grad_norm) AS grad_norm, sum(seconds) AS seconds
    FROM told
    GROUP BY ALL
), ends AS (
    SELECT run_id, variant, step, model, arg_max(asked, stretch) AS asked_at_last,
           -- Of two or three stretches nothing can be said.
           CASE WHEN max(most) >= 3 THEN max(reward) FILTER (2 * stretch >= most) - min(reward) FILTER (2 * stretch >= most) END AS moved
    FROM (SELECT *, max(stretch) OVER (PARTITION BY run_id, variant, step, model) AS most FROM stretches)
    GROUP BY ALL
)
SELECT s.run_id, r.name AS run, s.* EXCLUDE (run_id, half), s.reward - s.half AS reward_low, s.reward + s.half AS reward_high,
       coalesce(e.asked_at_last > 0.9 AND e.moved < 0.02, false) AS collapsed
FROM stretches s
JOIN runs r USING (run_id)
JOIN ends e USING (run_id, variant, step, model)
ORDER BY s.run_id, s.variant, s.step, s.model, s.stretch
