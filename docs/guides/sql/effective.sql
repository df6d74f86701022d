-- The events that count: those of runs that completed. Leaves out what failed, interrupted and superseded runs of the same window emitted.
-- job.claimed is a completed run whose own host may not have delivered job.completed.
-- If the table requires a partition filter, also filter by event.created_at.
-- `lorchestra events setup` creates the view lorchestra.events_effective with this query.
SELECT event.*
FROM `lorchestra.events` AS event
JOIN (
  SELECT DISTINCT run_id
  FROM `lorchestra.events`
  WHERE event_type IN ('job.completed', 'job.claimed') AND created_at >= '1970-01-01'
) AS completed
ON event.run_id = completed.run_id
