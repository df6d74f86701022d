-- Is anything dead? Jobs that succeeded in the last 30 days, and not in the last 26 hours: a daily job that does not run any more,
-- or only fails. How often it failed since tells the two apart.
SELECT
  source,
  MAX(IF(event_type = 'job.completed', created_at, NULL)) AS last_success,
  MAX(created_at) AS last_seen,
  COUNTIF(event_type = 'job.failed' AND created_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 26 HOUR)) AS failed_since
FROM `lorchestra.events`
WHERE event_type IN ('job.started', 'job.completed', 'job.failed')
  AND created_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 30 DAY)
GROUP BY source
HAVING last_success < TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 26 HOUR)
ORDER BY last_success
