SELECT p.topic, p.partition, p.next_offset
FROM positions AS p
JOIN unnest(:topics::text[], :partitions::integer[]) AS asked (topic, partition) USING (topic, partition)
ORDER BY p.topic, p.partition
FOR UPDATE OF p
