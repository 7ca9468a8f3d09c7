-- Whole days, as they are dropped.
UPDATE rollup_state
SET raw_from = greatest(raw_from, date_trunc('day', :before_us::timestamptz AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')
