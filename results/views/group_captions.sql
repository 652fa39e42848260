-- C2B: the captions behind each group of the first draw, in order.
SELECT run_id, variant, target, attribute, value,
       list(text ORDER BY first_id) AS captions
FROM (SELECT run_id, variant, target, attribute, value, text, min(caption_id) AS first_id
      FROM c2b_caption
      WHERE NOT is_neutral AND status = 'kept' AND resample = 0
      GROUP BY ALL)
GROUP BY ALL
