-- Everything that failed: steps with their error, and items that were given up.
SELECT run_id, variant, step, NULL AS item, error AS reason
FROM run_steps
WHERE status = 'failed' OR error IS NOT NULL
UNION ALL
SELECT run_id, variant, step, item, text
FROM messages
WHERE level = 'failed'
ORDER BY run_id, variant, step, item
