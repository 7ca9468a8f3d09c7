CALL helios_make_days(:days::date[])
