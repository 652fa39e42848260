-- How the concept lists of each head were judged, by task: mean score with its n, and how many lists have none.
SELECT j.run_id, j.variant, j.step, j.task, j.judge, j.layer, j.head,
       avg(j.score) AS score_mean, stddev_samp(j.score) AS score_sd, count(j.score) AS n,
       count(*) FILTER (j.status = 'unscored') AS unscored, count(*) FILTER (j.status = 'empty') AS empty,
       mode(j.theme) AS theme
FROM sith_judgement j
GROUP BY ALL
ORDER BY j.run_id, j.variant, j.step, j.task, j.layer, j.head
