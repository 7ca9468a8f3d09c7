-- Resolved incidents that nobody has touched since.
SELECT id FROM incidents WHERE state = 'resolved' AND updated_us < :before_us ORDER BY updated_us LIMIT :limit
