CALL helios_prune(:before_us::timestamptz)
