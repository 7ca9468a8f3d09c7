"""Helios: the contract of the collector, and the client SDK that speaks it."""
