"""What an audit comes to, and how it is told to people and to programs."""

from __future__ import annotations

import io
import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rich.console import Console

from verify.judging import Word
from verify.render import print_report
from verify.report import Finding, Report, Status, as_json

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def report(words, **fields):
    made = Report(as_of=NOW, published=Counter(person=5), events=9, **fields)
    made.words.update({(leg, "person", word): number for leg, word, number in words})
    return made


def text(made):
    stream = io.StringIO()
    print_report(made, Console(file=stream, width=200))
    return stream.getvalue()


@pytest.mark.parametrize("word", list(Word))
def test_the_status_says_whether_anything_is_wrong(word):
    normal = {Word.IN_STEP, Word.BEHIND, Word.DEAD_LETTER, Word.STUB}
    made = report([("graph", Word.IN_STEP, 4), ("graph", word, 1)])
    assert made.status == (Status.IN_STEP if word in normal else Status.DIFFERENCES)
    assert made.differences == (0 if word in normal else 1)


def test_what_a_trimmed_topic_cannot_account_for_is_not_judged():
    extra = report([("graph", Word.EXTRA, 3)], trimmed_types=frozenset({"person"}))
    assert extra.status is Status.NOT_JUDGED
    assert report([("graph", Word.EXTRA, 3)], trimmed_types=frozenset({"account"})).status is Status.DIFFERENCES
    both = report([("graph", Word.EXTRA, 3), ("vector", Word.MISSING, 1)], trimmed_types=frozenset({"person"}))
    assert both.status is Status.DIFFERENCES


def test_a_problem_is_no_verdict():
    made = report([("graph", Word.MISSING, 3)], problem="JanusGraph: away")
    assert made.status is Status.NOT_JUDGED
    assert text(made) == "could not be judged: JanusGraph: away\n"


def test_people_see_counts_names_and_ages():
    finding = Finding("person", "p[bold]1", "graph", Word.MISSING, "holds nothing, published is 3", "3 written again")
    made = report(
        [("graph", Word.IN_STEP, 4_000), ("graph", Word.MISSING, 3), ("vector", Word.BEHIND, 2)],
        findings=[finding],
        behind_since={("vector", "person"): NOW - timedelta(seconds=90)},
        unreadable={"persons-events": 7},
        overtaken=Counter(person=6),
        notes=["a note"],
        repaired=1,
    )
    shown = text(made)
    for words in (
        "p[bold]1",
        "4,000",
        "2 more are not named",
        "vector is behind with person: its oldest event waits since 2026-03-01 11:58:30.000Z (90 s)",
        "persons-events: 7 messages are no event",
        "6 of person: an older version was published after the newest",
        "a note",
        "mended: 1",
        "3 written again",
        "differences: 5 entities of 9 events, 3 differences",
    ):
        assert words in shown


def test_what_stands_in_an_id_does_not_steer_the_terminal():
    finding = Finding("person", "p\x1b[2J", "graph", Word.EXTRA, "x\x1b]0;", "")
    assert "\x1b" not in text(report([("graph", Word.EXTRA, 1)], findings=[finding]))


def test_programs_get_the_same():
    finding = Finding("person", "p", "graph", Word.CONTENT_DIFFERS, "other content under version 3")
    made = report([("graph", Word.CONTENT_DIFFERS, 1), ("vector", Word.IN_STEP, 1)], findings=[finding])
    told = json.loads(msgspec.json.encode(as_json(made)))
    assert (told["exit_status"], told["status"], told["differences"]) == (1, "differences", 1)
    assert told["entities"] == {"graph": {"person": {"content differs": 1}}, "vector": {"person": {"in step": 1}}}
    assert told["findings"][0]["word"] == "content differs"
    assert told["findings"][0]["entity_id"] == "p"
