-- What each singular direction of a head writes: one row a direction and setting, its concepts with coefficients from large to small.
SELECT c.run_id, c.variant, c.step, c.layer, c.head, c.sv, c.side, c.sign, c.method, c.k, c.coherence,
       d.model, d.sigma, d.sigma_share, d.near_degenerate, d.ceiling, any_value(s.fidelity) AS fidelity,
       any_value(s.joint_cos) AS joint_cos, any_value(s.atom_cosine) AS atom_cosine, any_value(s.n_active) AS n_active,
       list(c.concept ORDER BY c.rank) FILTER (c.coef > 0) AS concepts,
       list(c.coef ORDER BY c.rank) FILTER (c.coef > 0) AS coefficients,
       string_agg(printf('%.2f %s', c.coef, c.concept), ', ' ORDER BY c.rank) FILTER (c.coef > 0) AS written
FROM sith_concept c
JOIN sith_code s USING (run_id, variant, step, layer, head, sv, side, sign, method, k, coherence)
LEFT JOIN (SELECT DISTINCT ON (run_id, variant, layer, head, sv, side) * FROM sith_direction
           ORDER BY run_id, variant, layer, head, sv, side, step) d
  ON (d.run_id, d.variant, d.layer, d.head, d.sv, d.side) = (c.run_id, c.variant, c.layer, c.head, c.sv, c.side)
GROUP BY ALL
ORDER BY c.run_id, c.variant, c.step, c.method, c.k, c.coherence, c.layer, c.head, c.sv
