-- Resolved incidents that nobody has touched since.
SELECT id FROM incidents WHERE state = 'resolved' AND updated_at < :before_us ORDER BY updated_at LIMIT :limit
