-- Minutes to roll up, locked and taken out; those that others have at work are left to them.
DELETE FROM rollup_pending
WHERE (service, start_time) IN (
    SELECT service, start_time FROM rollup_pending
    WHERE start_time < :until_us
    ORDER BY service, start_time
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
RETURNING service, start_time AS start_us
