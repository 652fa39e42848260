-- Open world: scores of groups of datasets and of all, as plain means of the datasets' values; also over the variants of a sweep.
SELECT run_id, setting, step, method, prompt_key, model, level, name, metric, value, low, high, datasets, n, unscored, chunker, judge, encoder
FROM group_scores
WHERE world = 'open'
ORDER BY run_id, setting, metric, level DESC, name, value DESC
