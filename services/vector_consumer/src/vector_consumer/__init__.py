"""The vector leg: banking events into OpenSearch."""
