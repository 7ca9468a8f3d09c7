-- So that there is a row to lock for each (topic, partition).
INSERT INTO positions (topic, partition, next_offset)
SELECT topic, partition, 0 FROM unnest(:topics::text[], :partitions::integer[]) AS asked (topic, partition)
ON CONFLICT DO NOTHING
