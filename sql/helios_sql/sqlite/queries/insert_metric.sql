INSERT INTO metrics VALUES (:time_us, :name, :service, :host, :value, :labels)
