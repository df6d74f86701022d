-- All events of one run, in order. @run_id is the whole id, which `lorchestra runs show RUN` prints.
SELECT created_at, event_type, attempt, subject_id, payload
FROM `lorchestra.events`
WHERE run_id = @run_id
  AND created_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 365 DAY)
ORDER BY created_at, event_id
