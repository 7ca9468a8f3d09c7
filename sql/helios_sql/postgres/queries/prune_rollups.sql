DELETE FROM rollups WHERE step_s = :step_s AND start_time < :before_us
