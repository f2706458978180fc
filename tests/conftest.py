"""Options of the whole test run."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption(
        "--keep-stack",
        action="store_true",
        help="use the tests' stack as it is, and leave it running, so that the next run starts at once",
    )
