-- Training of vision-language models: the loss along the way, in at most 40 stretches of steps a model (plain means over the steps of a stretch).
SELECT s.run_id, r.name AS run, s.variant, s.step, s.model, s.stretch, min(s.train_step) AS first_step, max(s.train_step) AS last_step,
       max(s.epoch) AS epoch, avg(s.loss) AS loss, avg(s.ce) AS ce, avg(s.kd_logits) AS kd_logits, avg(s.kd_hidden) AS kd_hidden,
       arg_max(s.lr, s.train_step) AS lr, max(s.grad_norm) AS grad_norm, sum(s.tokens)::BIGINT AS tokens, sum(s.seconds) AS seconds
FROM (SELECT *, (train_step - 1) * least(40, last) // last AS stretch
      FROM (SELECT *, max(train_step) OVER (PARTITION BY run_id, variant, step, model) AS last FROM recovery_step)) s
JOIN runs r USING (run_id)
GROUP BY s.run_id, r.name, s.variant, s.step, s.model, s.stretch
ORDER BY s.run_id, s.variant, s.step, s.model, s.stretch
