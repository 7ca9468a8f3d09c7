"""The store on PostgreSQL, with TimescaleDB or without. All but its settings need the extra `timescale`."""
