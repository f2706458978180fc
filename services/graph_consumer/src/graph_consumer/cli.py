"""The graph consumer's command: runs the service until it is told to stop."""

from __future__ import annotations

from banking.streaming.leg import run_leg
from banking.streaming.settings import load_settings
from graph_consumer.settings import GraphSettings
from graph_consumer.sink import GraphSink


def main() -> None:
    """Run the graph leg with the settings of the environment."""
    settings = load_settings(GraphSettings)
    run_leg("graph_consumer", settings, lambda: GraphSink(settings))
