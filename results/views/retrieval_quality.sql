-- C2B: for each group how many images were fetched and kept, what they were rejected for, and how well they fit.
SELECT run_id, variant, step, target, attribute, value, fetched, kept,
       CASE WHEN fetched > 0 THEN kept / fetched END AS kept_share, mean_similarity, rejected
FROM c2b_retrieval_count
ORDER BY run_id, variant, step, target, attribute, value
