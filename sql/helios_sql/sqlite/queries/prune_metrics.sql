DELETE FROM metrics WHERE time_us < :before_us
