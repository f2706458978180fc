"""What decides whether a container is made anew."""

from __future__ import annotations

import os

from fleet.compose import last_change


def _write(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (seconds, seconds))
    return path


def test_the_last_change_of_files_and_folders_is_that_of_the_newest_file(tmp_path):
    single = _write(tmp_path / "opensearch.yml", 100)
    _write(tmp_path / "janusgraph" / "init.groovy", 200)
    _write(tmp_path / "janusgraph" / "fleet" / "EntityWriter.groovy", 300)
    assert last_change([single]) == 100
    assert last_change([single, tmp_path / "janusgraph"]) == 300


def test_a_container_without_mounted_files_never_changes(tmp_path):
    assert last_change([]) == 0
    assert last_change([tmp_path]) == 0
