"""Brings the fleet up and down, waits for it, and shows that it works."""
