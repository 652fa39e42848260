-- C2B: attributes and captions that the language model proposed and the rules refused, with the reason.
SELECT DISTINCT run_id, variant, 'attribute' AS kind, resample, target, attribute, NULL AS value,
       array_to_string(bias_values, ', ') AS text, status, drop_reason
FROM c2b_attribute
WHERE status <> 'kept'
UNION ALL
SELECT DISTINCT run_id, variant, 'caption', resample, target, attribute, value, text, status, drop_reason
FROM c2b_caption
WHERE status <> 'kept'
ORDER BY run_id, variant, kind, resample, target, attribute, value
