-- Those of the given minutes that are to be rolled up, taken out; waits for who has them at work.
DELETE FROM rollup_pending
WHERE (service, start_time) IN (
    SELECT pending.service, pending.start_time
    FROM unnest(:services::text[], :starts::timestamptz[]) AS minutes (service, start_time)
    JOIN rollup_pending AS pending USING (service, start_time)
    ORDER BY pending.service, pending.start_time
    FOR UPDATE OF pending
)
RETURNING service, start_time AS start_us
