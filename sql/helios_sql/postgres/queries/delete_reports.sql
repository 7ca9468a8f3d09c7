DELETE FROM reports WHERE incident_id = :incident_id
