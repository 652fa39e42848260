-- Closed world: accuracies over groups of datasets and over all, as plain means of the datasets' values; also over the variants of a sweep.
SELECT run_id, setting, step, method, model, shots, level, name, metric, value, low, high, datasets, n, unscored AS failures
FROM group_scores
WHERE world = 'closed'
ORDER BY run_id, setting, metric, level DESC, name, value DESC
