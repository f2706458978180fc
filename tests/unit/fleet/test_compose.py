"""What decides whether a container is made anew, and which compose files a stack has."""

from __future__ import annotations

import json
import os
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from fleet.cli import app
from fleet.compose import CASSANDRA_FILE, CLUSTER_FILE, COMPOSE_FILE, Security, Stack, StackError, Storage, last_change


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


@pytest.fixture
def commands(monkeypatch):
    """The commands that a stack runs, and the services that podman says it has."""
    ran, services = [], []

    def run(_stack, command, _timeout_seconds):
        ran.append(command)
        entry = {"State": "running", "ImageID": "", "StartedAt": 0}
        found = [
            {"Names": [f"p_{service}_1"], "Labels": {"com.docker.compose.service": service}, **entry}
            for service in services
        ]
        return json.dumps(found) if command[1] == "ps" else ""

    monkeypatch.setattr(Stack, "_run", run)
    return ran, services


def files_of(command):
    return [argument for flag, argument in pairwise(command) if flag == "-f"]


@pytest.mark.parametrize(
    ("storage", "running", "files"),
    [
        (None, ["janusgraph"], [COMPOSE_FILE]),
        (None, ["janusgraph", "cassandra"], [COMPOSE_FILE, CASSANDRA_FILE]),
        (Storage.CASSANDRA, [], [COMPOSE_FILE, CASSANDRA_FILE]),
        (Storage.BERKELEYJE, ["janusgraph", "cassandra"], [COMPOSE_FILE]),
    ],
)
def test_a_stack_stays_on_its_storage_unless_told_otherwise(commands, storage, running, files):
    ran, services = commands
    services.extend(running)
    Stack("p", storage=storage).compose("ps")
    assert files_of(ran[-1]) == [str(file) for file in files]


@pytest.mark.parametrize(
    ("environment", "storage"),
    [
        ({"STORAGE": "cassandra"}, Storage.CASSANDRA),
        ({"STORAGE": "berkeleyje"}, Storage.BERKELEYJE),
        ({"STORAGE": ""}, None),
    ],
)
def test_the_makefiles_variable_chooses_the_storage(monkeypatch, environment, storage):
    chosen = []
    monkeypatch.setattr(Stack, "up", lambda stack: chosen.append(stack._storage))
    result = CliRunner().invoke(app, ["up"], env=environment)
    assert result.exit_code == 0, result.output
    assert chosen == [storage]


def test_a_storage_that_does_not_exist_is_refused_with_what_does():
    result = CliRunner().invoke(app, ["up"], env={"STORAGE": "hbase"})
    assert result.exit_code == 2
    assert "cassandra" in result.output


@pytest.mark.parametrize(("cluster", "running"), [(True, []), (None, ["opensearch", "opensearch-network"])])
def test_a_cluster_has_its_file_on_top_of_cassandras(commands, cluster, running):
    ran, services = commands
    services.extend(running)
    Stack("p", cluster=cluster).compose("ps")
    assert files_of(ran[-1]) == [str(file) for file in (COMPOSE_FILE, CASSANDRA_FILE, CLUSTER_FILE)]


@pytest.mark.parametrize(
    ("choices", "running", "problem"),
    [
        ({"cluster": True, "storage": Storage.BERKELEYJE}, [], "leave STORAGE away"),
        ({"cluster": True, "security": Security.SECURED}, [], "no secured one"),
        ({"cluster": True}, ["opensearch"], "make clean"),
        ({"cluster": False}, ["opensearch", "opensearch-network"], "make clean"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(commands, choices, running, problem):
    commands[1].extend(running)
    with pytest.raises(StackError, match=problem):
        Stack("p", **choices).up()
