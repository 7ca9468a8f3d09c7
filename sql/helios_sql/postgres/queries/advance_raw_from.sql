-- Whole days, as they are dropped. Nothing is touched, nor waited for, where it stands there already.
UPDATE rollup_state
SET raw_from = date_trunc('day', :before_us::timestamptz AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
WHERE raw_from < date_trunc('day', :before_us::timestamptz AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
