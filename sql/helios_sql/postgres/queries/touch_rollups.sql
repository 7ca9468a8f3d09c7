-- Minutes that have got windows: locked until the transaction ends, as another one may be rolling them up.
INSERT INTO rollup_pending AS pending (service, start_time)
SELECT * FROM unnest(:services::text[], :starts::timestamptz[])
ON CONFLICT (service, start_time) DO UPDATE SET marks = pending.marks + 1
