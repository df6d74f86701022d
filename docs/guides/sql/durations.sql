-- How long does it take? Successful runs of the last 30 days, in seconds, and how many failed.
SELECT
  source,
  COUNTIF(event_type = 'job.completed') AS completed,
  COUNTIF(event_type = 'job.failed') AS failed,
  ROUND(AVG(IF(event_type = 'job.completed', CAST(JSON_VALUE(payload, '$.duration_ms') AS INT64), NULL)) / 1000, 1) AS mean_seconds,
  MAX(IF(event_type = 'job.completed', CAST(JSON_VALUE(payload, '$.duration_ms') AS INT64), NULL)) / 1000 AS longest_seconds,
  MAX(CAST(JSON_VALUE(payload, '$.max_rss_kib') AS INT64)) AS max_rss_kib
FROM `lorchestra.events`
WHERE event_type IN ('job.completed', 'job.failed')
  AND created_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 30 DAY)
GROUP BY source
ORDER BY longest_seconds DESC
