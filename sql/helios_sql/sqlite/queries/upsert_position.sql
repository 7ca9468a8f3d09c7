INSERT OR REPLACE INTO positions VALUES (:topic, :partition, :next_offset)
