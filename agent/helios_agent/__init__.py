"""The agent: reads logs, reduces them to windows, and ships these without loss."""
