-- All that one run told, in order. @run_id is the whole id, which `lorchestra runs show RUN` prints.
SELECT created_at, event_type, attempt, subject_id, payload
FROM `lorchestra.events`
WHERE run_id = @run_id
ORDER BY created_at, event_id
