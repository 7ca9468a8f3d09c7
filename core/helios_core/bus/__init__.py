"""The bus: where everything that comes in is safe before it is acknowledged."""
