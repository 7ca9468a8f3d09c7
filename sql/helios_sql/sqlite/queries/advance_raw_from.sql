-- Whole minutes: what is added up to rollups is there as a whole, or not at all.
UPDATE rollup_state SET raw_from_us = max(raw_from_us, :before_us / 60000000 * 60000000)
