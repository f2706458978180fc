"""The picture of the flow, `docs/flow.svg`, drawn from the names of the topics."""

from __future__ import annotations

from itertools import pairwise

import schemdraw
from schemdraw.elements import Label, Line, Rect

from banking.streaming.dead_letters import DEFAULT_RETRY_DELAYS
from banking.streaming.sink import Leg
from banking.streaming.topics import DLQ_TOPIC, ENTITY_TOPICS, RETRY_TOPICS

Point = tuple[float, float]

_ENTRANCE, _SERVICE, _STORE, _TOPIC, _BROKER = "#ffffff", "#dbeafe", "#dcfce7", "#fef3c7", "#fafaf9"
_TEXT_SIZE, _SMALL = 12.0, 10.5
_SIZE = (3.6, 0.9)


def flow_picture() -> str:
    """The SVG: who writes what, from the entrances on the left to the stores and the archive on the right."""
    schemdraw.use("svg")
    schemdraw.svgconfig.text = "text"
    picture = _Picture()

    picture.box("HTTP, Python, files", (0, 3.0), _ENTRANCE)
    picture.box("producer", (0, 1.3), _SERVICE)
    picture.arrow((0, 2.55), (0, 1.75))

    picture.box("", (6.2, 0), _BROKER, (5, 7.6))
    picture.label("Apache Pulsar: public/banking", (6.2, 3.3))
    for number, topic in enumerate(ENTITY_TOPICS.values()):
        picture.box(topic, (6.2, 2.6 - 0.65 * number), _TOPIC, (4.4, 0.55))
    for topic, height in ((RETRY_TOPICS[Leg.GRAPH], -1.0), (RETRY_TOPICS[Leg.VECTOR], -1.65), (DLQ_TOPIC, -2.9)):
        picture.box(topic, (6.2, height), _TOPIC, (4.4, 0.55))
    picture.arrow((1.8, 1.3), (4, 1.3), text="events", at=(2.8, 1.42))

    for service, store, height in (("graph_consumer", "JanusGraph", 2.1), ("vector_consumer", "OpenSearch", 0.3)):
        picture.box(service, (13, height), _SERVICE)
        picture.box(store, (18, height), _STORE)
        picture.arrow((14.8, height), (16.2, height))
    picture.line((8.4, 1.3), (10.2, 1.3), text="batches", at=(9.4, 1.42))
    picture.arrow((10.2, 1.3), (10.2, 2.3), (11.2, 2.3))
    picture.arrow((10.2, 1.3), (10.2, 0.5), (11.2, 0.5))
    picture.arrow((8.4, -1.0), (10.6, -1.0), (10.6, 1.9), (11.2, 1.9))
    picture.arrow((8.4, -1.65), (10.9, -1.65), (10.9, 0.1), (11.2, 0.1))
    picture.label("retries", (9.6, -1.45))

    picture.line((14.1, 1.65), (14.1, 0.75))
    picture.arrow((13.5, -0.15), (13.5, -2.75), (8.4, -2.75), text="what a store refuses", at=(11.6, -2.63))

    picture.box("dlq_worker", (13, -4.5), _SERVICE)
    picture.box("archive: files or object storage", (18, -4.5), _STORE, (5.2, 0.9))
    picture.arrow((7.2, -3.18), (7.2, -4.35), (11.2, -4.35), text="letters", at=(9.4, -4.23))
    picture.arrow((11.2, -4.65), (3.2, -4.65), (3.2, -1.33), (4, -1.33))
    delays = [f"{seconds:g}" for seconds in DEFAULT_RETRY_DELAYS]
    picture.label(f"after {', '.join(delays[:-1])} and {delays[-1]} s", (7.2, -4.98))
    picture.arrow((14.8, -4.5), (15.4, -4.5))
    return picture.svg()


class _Picture:
    """A drawing in units of about a centimetre, y upwards."""

    def __init__(self) -> None:
        self._drawing = schemdraw.Drawing(show=False)
        self._drawing.config(fontsize=_TEXT_SIZE, font="sans-serif", lw=1.2, bgcolor="white", margin=0.2)

    def box(self, text: str, centre: Point, fill: str, size: Point = _SIZE) -> None:
        """A box with its text in its middle."""
        (x, y), (width, height) = centre, size
        corners = ((-width / 2, -height / 2), (width / 2, height / 2))
        box = Rect(*corners).at((x, y)).theta(0).fill(fill)
        self._drawing.add(box.label(text, "center", fontsize=_TEXT_SIZE, ofst=0) if text else box)

    def label(self, text: str, at: Point) -> None:
        """A text centred over a point."""
        self._drawing.add(Label().at(at).theta(0).label(text, fontsize=_SMALL, halign="center"))

    def line(self, *points: Point, text: str = "", at: Point = (0, 0), arrow: str | None = None) -> None:
        """A line through points, with a text somewhere by it."""
        for place, (start, end) in enumerate(pairwise(points), start=2):
            self._drawing.add(Line(arrow=arrow if place == len(points) else None).at(start).to(end))
        if text:
            self.label(text, at)

    def arrow(self, *points: Point, text: str = "", at: Point = (0, 0)) -> None:
        """A line that ends in an arrow."""
        self.line(*points, text=text, at=at, arrow="->")

    def svg(self) -> str:
        """The picture, ending in a line feed."""
        # Its default unit is the point, which not every viewer takes.
        return self._drawing.get_imagedata("svg").decode().replace('pt"', 'px"') + "\n"
