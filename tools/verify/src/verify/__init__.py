"""Audits a running fleet: what was published, against what each store holds of it."""
