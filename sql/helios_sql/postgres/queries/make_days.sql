CALL helios_make_days(:days::text[]::date[])
