INSERT OR REPLACE INTO ledger VALUES (:agent_id, :incarnation, :partition, :state)
