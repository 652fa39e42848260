-- Debiasing: accuracy of each class and value of the attribute, over all halves, and whether it is the method's worst group.
SELECT *, accuracy = min(accuracy) OVER (PARTITION BY run_id, variant, step, dataset, backbone, attribute, method) AS worst
FROM (SELECT run_id, variant, step, dataset, backbone, attribute, method, target, value,
             sum(n) AS answers, max(n) AS largest_half, sum(correct) AS correct, sum(correct) / sum(n) AS accuracy
      FROM debias_group GROUP BY ALL HAVING sum(n) > 0)
ORDER BY run_id, variant, step, dataset, backbone, attribute, method, target, value
