-- Retention deletes by time alone.
CREATE INDEX window_templates_start ON window_templates (start_us);
CREATE INDEX metrics_time ON metrics (time_us);
CREATE INDEX anomalies_time ON anomalies (decided_us);
