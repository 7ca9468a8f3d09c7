DELETE FROM templates WHERE last_seen_us < :before_us
