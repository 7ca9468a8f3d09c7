-- In the order of the key, so that two writers wait for each other and never in a circle.
SELECT l.agent_id, l.incarnation, l.partition, l.state
FROM ledger AS l
JOIN unnest(:agents::bytea[], :incarnations::bytea[], :partitions::integer[]) AS asked (agent_id, incarnation, partition)
    USING (agent_id, incarnation, partition)
ORDER BY l.agent_id, l.incarnation, l.partition
FOR UPDATE OF l
