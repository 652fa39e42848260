-- Leakage: one sentence a backbone, at the deepest layer that was probed. Leaks: the interval of the excess lies above 0; none found: it excludes 0.05 and more.
SELECT *,
       CASE verdict
         WHEN 'leaks' THEN
           'On ' || left(dataset, 60) || ', a part''s vector of ' || left(model, 80) || ' is not about that part alone: what it tells about other parts comes ' || CASE WHEN share_outside > 0.5 THEN 'mostly' WHEN excess < 0.05 THEN 'to a small part' ELSE 'partly' END
           || ' from outside its own pixels (' || format('{:.2f} [{:.2f}, {:.2f}]', excess, excess_low, excess_high) || ' AUROC above a vector that cannot leak)'
         WHEN 'none_found' THEN
           'On ' || left(dataset, 60) || ', no leakage was found in ' || left(model, 80) || ': a part''s vector tells hardly more about other parts than a vector that cannot leak ('
           || format('{:.2f} [{:.2f}, {:.2f}]', excess, excess_low, excess_high) || ' AUROC; 0.05 and more is excluded)'
         ELSE
           'Whether on ' || left(dataset, 60) || ' a part''s vector of ' || left(model, 80) || ' knows more than its part cannot be told from these pictures ('
           || coalesce(format('{:.2f} [{:.2f}, {:.2f}]', excess, excess_low, excess_high) || ' AUROC against a vector that cannot leak)', 'there is no vector that cannot leak to compare with)')
       END AS sentence
FROM (SELECT *, CASE WHEN excess > 0 AND "cross" > 0.5 THEN least(1, excess / ("cross" - 0.5)) END AS share_outside,
             CASE WHEN excess_low > 0 THEN 'leaks' WHEN excess_high < 0.05 THEN 'none_found' ELSE 'cannot_be_told' END AS verdict
      FROM leakage_by_depth
      QUALIFY layer = max(layer) OVER (PARTITION BY run_id, variant, step, dataset, model, probe))
ORDER BY run_id, variant, step, dataset, model, probe
