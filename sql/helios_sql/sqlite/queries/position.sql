SELECT next_offset FROM positions WHERE topic = :topic AND partition = :partition
