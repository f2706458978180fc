"""The dead-letter worker: retries on schedule, then archives."""
