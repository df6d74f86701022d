-- Why do runs fail? Causes by week and job, the last 12 weeks.
SELECT
  TIMESTAMP_TRUNC(created_at, WEEK) AS week,
  source,
  JSON_VALUE(payload, '$.cause') AS cause,
  COUNT(*) AS runs
FROM `lorchestra.events`
WHERE event_type = 'job.failed'
  AND created_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 84 DAY)
GROUP BY week, source, cause
ORDER BY week DESC, runs DESC
