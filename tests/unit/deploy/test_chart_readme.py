"""The chart's README: its table is what values.yaml says, its commands are run or said to need a cluster."""

from __future__ import annotations

import json
import re
import shlex

import helm_python
import pytest
import yaml

from fleet.compose import ROOT
from fleet.keyring import ROLES

CHART = ROOT / "deploy" / "kubernetes"
README = (CHART / "README.md").read_text(encoding="utf-8")
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
NOT_RUN = "needs a cluster or a registry, so no test runs it"

COMMANDS = [
    (line, NOT_RUN in before)
    for before, block in re.findall(r"([^\n]+)\n\n```sh\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def section(heading):
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def values_table():
    """The rows that values.yaml makes: a comment, and below it the value that it is about."""
    rows, path, comment = [], [], ""
    for line in (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()[1:]:
        if found := re.fullmatch(r"( *)# (.*)", line):
            comment = found[2]
        elif found := re.fullmatch(r"( *)(\w+):.*", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            if comment:
                rows.append(f"| `{'.'.join(path)}` | {default(path)} | {comment} |")
            comment = ""
    return rows


def default(path):
    value = VALUES
    for name in path:
        value = value[name]
    if value in ("", [], {}):
        return "-"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def test_the_table_of_values_is_what_values_yaml_says():
    table = [line for line in section("Values").splitlines() if line.startswith("| `")]
    assert table == values_table(), "make them equal:\n" + "\n".join(values_table())


def test_every_value_has_a_row():
    def leaves(tree, path=()):
        for name, value in tree.items():
            if (*path, name)[-1] != "resources" and isinstance(value, dict) and value:
                yield from leaves(value, (*path, name))
            else:
                yield ".".join((*path, name))

    assert [row.split("`")[1] for row in values_table()] == list(leaves(VALUES))


def run(arguments):
    """`helm lint` or `helm template`, by Helm's own library."""
    verb, *rest = arguments
    options = {"--values": None, "--namespace": None}
    for option in options:
        if option in rest:
            options[option] = rest.pop(rest.index(option) + 1)
            rest.remove(option)
    values = yaml.safe_load((ROOT / options["--values"]).read_text()) if options["--values"] else {}
    chart = ROOT / rest.pop()
    if verb == "lint":
        assert rest == ["--strict"]
        assert helm_python.lint(chart, values, strict=True)["errors"] == []
        return
    assert verb == "template"
    with helm_python.Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        assert "kind: Deployment" in "".join(
            loaded.render(values, name=rest.pop(), namespace=options["--namespace"]).values()
        )
    assert rest == []


def test_every_command_runs_or_is_said_to_need_what_is_not_here():
    ran = []
    for line, needs_cluster in COMMANDS:
        program, *arguments = shlex.split(line)
        if needs_cluster:
            assert program in {"helm", "kubectl", "podman"}, line
        else:
            assert program == "helm", line
            run(arguments)
            ran.append(arguments[0])
    assert {"lint", "template"} <= set(ran)


def test_the_commands_name_what_is_there(release):
    installed = release({})
    names = {f"{item['kind'].lower()}/{item['metadata']['name']}" for item in installed.objects}
    named = {word for line, _ in COMMANDS for word in re.findall(r"(?:deployment|service)/[\w-]+", line)}
    assert named
    assert named <= names
    for path in re.findall(r"(?:-f|--values) (\S+)", "\n".join(line for line, _ in COMMANDS)):
        assert (ROOT / path).is_file(), path
    built = {line.split("/")[1] for line, _ in COMMANDS if line.startswith("podman build -f services/")}
    assert built == {"producer", "graph_consumer", "vector_consumer", "dlq_worker"}
    images = {
        template["spec"]["containers"][0]["image"].rsplit("/", 1)[1].split(":")[0]
        for template in installed.pods().values()
    }
    assert {line.split(" -t ")[1].rsplit("/", 1)[1].split(":")[0] for line, _ in COMMANDS if " -t " in line} == images


@pytest.fixture
def secret_files(release):
    """By Secret, the files that the chart's pods read by default."""
    installed = release({})
    return {
        f"fleet-{component}": {
            value.removeprefix("/etc/banking/secrets/")
            for value in installed.environment(component).values()
            if value.startswith("/etc/banking/secrets/")
        }
        for component in installed.pods()
    }


def test_the_secrets_are_named_with_their_roles_and_files(secret_files):
    folders = {name: name.removeprefix("fleet-").replace("-", "_") for name in secret_files} | {"fleet-audit": "verify"}
    rows = [re.findall(r"`([^`]+)`", line) for line in section("Secrets").splitlines() if line.startswith("| `")]
    assert {name: set(files) for name, _, *files in rows} == secret_files
    assert {name: role for name, role, *_ in rows} == {name: ROLES[folder] for name, folder in folders.items()}
    made = {
        (words[4], words[-1].removeprefix("--from-file="))
        for line, _ in COMMANDS
        if (words := shlex.split(line))[:4] == ["kubectl", "create", "secret", "generic"]
    }
    assert made == {(name, f".state/secrets/{folder}") for name, folder in folders.items()}


def test_its_links_lead_somewhere():
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", README):
        text = (CHART / target).read_text(encoding="utf-8") if target else README
        anchors = {
            re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
            for title in re.findall(r"^#+ (.*)", text, re.MULTILINE)
        }
        assert not anchor or anchor in anchors, f"{target}#{anchor}"
