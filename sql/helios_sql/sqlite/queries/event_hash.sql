-- The content of an event that is already there, to tell a repeat from a conflict.
SELECT content_hash FROM events WHERE time_us = :time_us AND idem_key = :idem_key
