"""The use cases: install, confirm, fall back, verify, tell."""
