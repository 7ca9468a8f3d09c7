-- Minutes to roll up, taken out; waits for who has them at work.
DELETE FROM rollup_pending
WHERE (service, start_time) IN (
    SELECT service, start_time FROM rollup_pending
    WHERE start_time < :until_us
    ORDER BY service, start_time
    LIMIT :limit
    FOR UPDATE
)
RETURNING service, start_time AS start_us
