-- C2B: groups where the classifier is better or worse than on the others, worst first, with the sentence to quote.
SELECT run_id, run, variant, step, target, attribute, value, value_source, verdict, n,
       acc AS accuracy, wilson_low AS accuracy_low, wilson_high AS accuracy_high, others_acc AS accuracy_of_others,
       phi AS difference, phi_low AS difference_low, phi_high AS difference_high, q_value, agreement AS truth,
       format('{}, {} = {}: right {:.0f} % of the time (95 % interval {:.0f} to {:.0f} %, n = {}) against {:.0f} % on the others: {} by {:.0f} points',
              target, attribute, CASE WHEN value_source = 'measured' THEN value || ' (measured)' ELSE value END, 100 * acc, 100 * wilson_low, 100 * wilson_high, n, 100 * others_acc,
              CASE WHEN phi < 0 THEN 'worse' ELSE 'better' END, 100 * abs(phi)) AS sentence
FROM verdicts
WHERE verdict IN ('favoured', 'disfavoured')
ORDER BY phi
