DELETE FROM rollups WHERE step_s = :step_s AND start_us < :before_us
