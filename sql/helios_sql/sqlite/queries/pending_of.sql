-- Those of the given minutes (a JSON array of pairs) that are to be rolled up.
SELECT p.service, p.start_us
FROM json_each(:buckets) AS minutes
CROSS JOIN rollup_pending AS p
WHERE p.service = json_extract(minutes.value, '$[0]') AND p.start_us = json_extract(minutes.value, '$[1]')
