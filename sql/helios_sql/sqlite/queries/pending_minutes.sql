-- Minutes to roll up.
SELECT service, start_us FROM rollup_pending WHERE start_us < :until_us ORDER BY service, start_us LIMIT :limit
