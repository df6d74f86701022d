-- Runs that began more than six hours ago and have no end here: still running, or their machine is down, or their last events are
-- not delivered (`lorchestra runs list --running`, `lorchestra events flush` on that host).
SELECT
  run_id,
  source,
  MIN(created_at) AS started_at,
  MAX(JSON_VALUE(payload, '$.host')) AS host
FROM `lorchestra.events`
WHERE event_type IN ('job.started', 'job.completed', 'job.failed', 'job.superseded')
  AND created_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 7 DAY)
GROUP BY run_id, source
HAVING COUNTIF(event_type <> 'job.started') = 0
  AND started_at < TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 6 HOUR)
ORDER BY started_at
