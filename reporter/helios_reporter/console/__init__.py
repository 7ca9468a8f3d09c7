"""The console: what a person sees of incidents, services and the live stream, and the API behind it."""
