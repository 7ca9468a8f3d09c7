"""The bus on Apache Kafka, for more than one machine. All but its settings need the extra `kafka`."""
