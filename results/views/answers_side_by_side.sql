-- Classification: a picture with what every method answered, who was right, and how far they disagree (0 = all alike, 0.5 = half of them right).
WITH told AS (
    SELECT p.run_id, p.variant, 'open' AS world, p.dataset, p.sample_id, p.target, p.method, p.model, p.prompt_key AS detail, p.seed, p.prediction,
           coalesce(s.llama_inclusion = 1, s.text_inclusion) AS correct
    FROM owc_prediction p
    LEFT JOIN owc_score s USING (run_id, variant, method, prompt_key, model, dataset, sample_id, seed)
    QUALIFY row_number() OVER (PARTITION BY run_id, variant, method, prompt_key, model, dataset, sample_id, seed ORDER BY s.step) = 1
    UNION ALL
    SELECT run_id, variant, 'closed', dataset, sample_id, target, method, model, shots || ' shots', seed, prediction, correct_inclusion
    FROM closed_world_prediction
), named AS (
    SELECT *, concat_ws(' · ', method, model, detail,
                        CASE WHEN count(DISTINCT seed) OVER (PARTITION BY run_id, variant, world, dataset, method, model, detail) > 1
                             THEN 'seed ' || seed END) AS who
    FROM told
)
SELECT run_id, variant, world, dataset, sample_id, any_value(target) AS target, count(*) AS answers_given,
       count(*) FILTER (correct) AS right_answers,
       0.5 - abs(avg(correct::INTEGER) - 0.5) AS disagreement,
       list(who || ': ' || coalesce(prediction, '(no answer)') || CASE WHEN correct THEN ' ✓' WHEN NOT correct THEN ' ✗' ELSE '' END ORDER BY who) AS answers,
       list(who ORDER BY who) FILTER (correct) AS right_by,
       list(who ORDER BY who) FILTER (NOT correct) AS wrong_by
FROM named
GROUP BY run_id, variant, world, dataset, sample_id
ORDER BY run_id, variant, world, disagreement DESC NULLS LAST, right_answers, dataset, sample_id
