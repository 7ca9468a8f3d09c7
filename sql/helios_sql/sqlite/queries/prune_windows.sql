DELETE FROM windows WHERE start_us < :before_us
