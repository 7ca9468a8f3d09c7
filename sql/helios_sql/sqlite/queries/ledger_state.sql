SELECT state FROM ledger WHERE agent_id = :agent_id AND incarnation = :incarnation AND partition = :partition
