DELETE FROM incidents WHERE id = :incident_id
