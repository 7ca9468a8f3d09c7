-- What the console asks of incidents every few seconds is of those that are open or opened lately, however many there
-- were in a year.
CREATE INDEX incidents_open ON incidents (opened_at DESC, id) WHERE state <> 'resolved';
CREATE INDEX incidents_resolved ON incidents (resolved_at);

-- Which durations and signals a service has: most windows are usual, and of these one is enough to find.
CREATE INDEX windows_unusual ON windows (service, start_time) INCLUDE (duration_ms, signal)
    WHERE duration_ms <> 10000 OR signal <> 1;
