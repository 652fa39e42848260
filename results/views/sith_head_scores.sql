-- Heads: their spectrum, and how well the codes of their directions explain them, by coder and setting.
SELECT c.run_id, c.variant, c.step, c.layer, c.head, c.side, c.method, c.k, c.coherence, any_value(h.model) AS model,
       any_value(h.spectral_norm) AS spectral_norm, any_value(h.fro_norm) AS fro_norm, any_value(h.eff_rank) AS eff_rank,
       count(*) AS directions, count(c.fidelity) AS explained,
       avg(c.fidelity) AS fidelity_mean, stddev_samp(c.fidelity) AS fidelity_std,
       min(c.fidelity) AS fidelity_min, max(c.fidelity) AS fidelity_max,
       any_value(h.ceiling_mean) AS ceiling_mean, avg(c.joint_cos) AS joint_cos_mean, avg(c.atom_cosine) AS atom_cosine_mean
FROM sith_code c
LEFT JOIN (SELECT DISTINCT ON (run_id, variant, layer, head) * FROM sith_head ORDER BY run_id, variant, layer, head, step) h
  ON (h.run_id, h.variant, h.layer, h.head) = (c.run_id, c.variant, c.layer, c.head)
GROUP BY c.run_id, c.variant, c.step, c.layer, c.head, c.side, c.method, c.k, c.coherence
ORDER BY c.run_id, c.variant, c.step, c.method, c.k, c.coherence, c.layer, c.head
