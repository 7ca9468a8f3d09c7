"""The collector: takes batches and events, puts them safely on the bus, and writes the store."""
