-- What failed in the last 24 hours, newest first.
SELECT
  created_at,
  source,
  JSON_VALUE(payload, '$.cause') AS cause,
  JSON_VALUE(payload, '$.message') AS message,
  CAST(JSON_VALUE(payload, '$.duration_ms') AS INT64) / 1000 AS seconds,
  run_id
FROM `lorchestra.events`
WHERE event_type IN ('job.failed', 'job.refused')
  AND created_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 24 HOUR)
ORDER BY created_at DESC
