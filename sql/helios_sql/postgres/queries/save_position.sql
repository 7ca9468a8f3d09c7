UPDATE positions SET next_offset = :next_offset WHERE topic = :topic AND partition = :partition
