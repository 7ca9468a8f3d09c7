-- From when on the rollups of a service lack something; NULL when they lack nothing.
SELECT min(start_us) AS pending_us FROM rollup_pending WHERE service = :service
