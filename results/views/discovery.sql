-- Part discovery: what came of it by architecture, means over the seeds of the training (NMI, ARI and keypoint error x 100).
SELECT run_id, variant, step, dataset, model, arch, slots, routing, count(DISTINCT seed) AS seeds,
       avg(value) FILTER (metric = 'nmi') AS nmi,
       avg(value) FILTER (metric = 'ari') AS ari,
       avg(value) FILTER (metric = 'dense_nmi') AS dense_nmi,
       avg(value) FILTER (metric = 'dense_ari') AS dense_ari,
       avg(value) FILTER (metric = 'keypoint_error') AS keypoint_error,
       avg(value) FILTER (metric = 'pointing') AS pointing,
       avg(value) FILTER (metric = 'miou') AS miou,
       avg(value) FILTER (metric = 'foreground_iou') AS foreground_iou,
       avg(value) FILTER (metric = 'attribute_map') AS attribute_map,
       avg(value) FILTER (metric = 'class_top1') AS class_top1,
       max(n) AS n
FROM discover_metrics
GROUP BY run_id, variant, step, dataset, model, arch, slots, routing
ORDER BY run_id, variant, step, dataset, model, slots, routing, arch
