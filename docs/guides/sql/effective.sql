-- The events that count: those of runs that completed. Leaves out what failed, interrupted and superseded runs of the same window emitted.
-- job.claimed is a completed run whose own host may not have delivered job.completed.
-- As a view: CREATE VIEW lorchestra.events_effective AS, and this.
SELECT event.*
FROM `lorchestra.events` AS event
JOIN (
  SELECT DISTINCT run_id
  FROM `lorchestra.events`
  WHERE event_type IN ('job.completed', 'job.claimed')
) AS completed
ON event.run_id = completed.run_id
