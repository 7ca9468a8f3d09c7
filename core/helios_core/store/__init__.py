"""The store: where windows, events, alerts, incidents and reports are kept and asked for."""
