DELETE FROM rollup_pending WHERE service = :service AND start_us = :start_us
