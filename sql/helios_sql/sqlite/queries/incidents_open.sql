SELECT document FROM incidents WHERE state <> 'resolved' ORDER BY opened_us, id
