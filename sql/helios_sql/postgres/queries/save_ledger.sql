UPDATE ledger SET state = :state
WHERE agent_id = :agent_id AND incarnation = :incarnation AND partition = :partition
