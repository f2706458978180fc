"""The graph leg: banking events into JanusGraph."""
