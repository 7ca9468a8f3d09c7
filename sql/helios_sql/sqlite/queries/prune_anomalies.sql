DELETE FROM anomalies WHERE decided_us < :before_us
