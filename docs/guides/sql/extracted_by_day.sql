-- How much was extracted? Numbers of ingester/extract_gmail by day; the payload of any event is queried like this.
SELECT
  DATE(created_at) AS day,
  SUM(CAST(JSON_VALUE(payload, '$.read') AS INT64)) AS messages_read,
  SUM(CAST(JSON_VALUE(payload, '$.written') AS INT64)) AS messages_written,
  SUM(CAST(JSON_VALUE(payload, '$.bytes') AS INT64)) AS bytes_written
FROM `lorchestra.events`
WHERE event_type = 'extraction.completed'
  AND created_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 30 DAY)
GROUP BY day
ORDER BY day DESC
