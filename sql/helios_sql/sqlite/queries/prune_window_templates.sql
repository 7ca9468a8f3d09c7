DELETE FROM window_templates WHERE start_us < :before_us
