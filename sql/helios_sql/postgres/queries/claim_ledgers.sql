-- So that there is a row to lock for each (agent, incarnation, partition).
INSERT INTO ledger (agent_id, incarnation, partition)
SELECT * FROM unnest(:agents::bytea[], :incarnations::bytea[], :partitions::integer[])
ON CONFLICT DO NOTHING
