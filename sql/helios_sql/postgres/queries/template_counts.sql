-- The templates of one service with their counts in [from_us, to_us) and in [before_us, from_us).
SELECT
    t.template_id, t.level, t.text, t.first_seen AS first_seen_us,
    sum(CASE WHEN w.start_time >= :from_us THEN w.count ELSE 0 END)::bigint AS count,
    sum(CASE WHEN w.start_time < :from_us THEN w.count ELSE 0 END)::bigint AS count_before
FROM window_templates AS w JOIN templates AS t USING (service, template_id)
WHERE w.service = :service AND w.start_time >= :before_us AND w.start_time < :to_us
GROUP BY t.template_id, t.level, t.text, t.first_seen
ORDER BY count DESC, t.template_id
LIMIT :limit
