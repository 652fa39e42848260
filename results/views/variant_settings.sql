-- Classification: each variant without the parameters that name its datasets, so that a sweep over datasets reads as one setting.
SELECT run_id, variant, datasets,
       array_to_string(list_filter(string_split(variant, ','), lambda part: NOT (
           split_part(part, '=', 1) IN ('dataset', 'datasets')
           OR list_contains(datasets, substr(part, strpos(part, '=') + 1)))), ',') AS setting
FROM (SELECT run_id, variant, list_sort(list(DISTINCT name)) AS datasets
      FROM (SELECT run_id, variant, name FROM owc_summary WHERE level = 'dataset'
            UNION ALL
            SELECT run_id, variant, name FROM closed_world_summary WHERE level = 'dataset'
            UNION ALL
            SELECT run_id, variant, dataset FROM debias_summary)
      GROUP BY run_id, variant)
