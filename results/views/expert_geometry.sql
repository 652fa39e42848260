-- How the experts' changes of the base lie to each other: cosine of each pair, with the size of both changes.
SELECT g.run_id, r.name AS run, g.variant, g.step, g.domain_i, g.domain_j, g.cosine, i.delta_norm AS norm_i, j.delta_norm AS norm_j,
       i.kind AS kind_i, j.kind AS kind_j
FROM dmo_geometry g
JOIN runs r USING (run_id)
LEFT JOIN dmo_expert i ON (i.run_id, i.variant, i.step, i.name) = (g.run_id, g.variant, g.step, g.domain_i)
LEFT JOIN dmo_expert j ON (j.run_id, j.variant, j.step, j.name) = (g.run_id, g.variant, g.step, g.domain_j)
ORDER BY g.run_id, g.variant, g.step, g.domain_i, g.domain_j
