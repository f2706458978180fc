"""The tool that brings stacks up says what failed, with the container's own last words."""

from __future__ import annotations

import pytest

from fleet.compose import Stack, StackError


@pytest.fixture
def broken(stack):
    """A project of one container that never becomes healthy, made from an image that the stack has."""
    other = Stack("banking-test-broken")
    labels = ("io.podman.compose.project=banking-test-broken", "com.docker.compose.service=broken")
    stack.podman(
        *("run", "-d", "--name", "banking-test-broken_broken_1", "--network", "none", "--health-cmd", "false"),
        *(option for label in labels for option in ("--label", label)),
        *(stack.image("dlq_worker"), "sh", "-c", "echo these are my last words; sleep 300"),
    )
    yield other
    stack.podman("rm", "-f", "-t", "0", "banking-test-broken_broken_1")


def test_a_container_that_does_not_become_ready_is_named_with_its_last_log_lines(broken):
    with pytest.raises(StackError) as caught:
        broken.wait_ready(2.0)
    assert "not ready after 2 s: broken" in str(caught.value)
    assert "these are my last words" in str(caught.value)


def test_waiting_for_a_stack_of_nothing_is_an_error(stack):
    with pytest.raises(StackError, match="nothing is running"):
        Stack("banking-test-empty").wait_ready(1.0)
    assert stack.containers()


def test_an_audit_without_a_container_of_it_is_an_error():
    with pytest.raises(StackError, match="banking-test-empty_verify_1 came to no end: exit status 125"):
        Stack("banking-test-empty").audit()


@pytest.mark.parametrize("service", ["producer", "pulsar", "no-such-service"])
def test_what_does_not_scale_is_refused_with_what_does(stack, service):
    with pytest.raises(StackError, match=f"{service} does not scale; these do: graph_consumer"):
        stack.scale(service, 2)


def test_a_command_that_fails_is_named_with_its_output(stack):
    with pytest.raises(StackError, match=r"podman inspect no-such-container: exit status 125") as caught:
        stack.podman("inspect", "no-such-container")
    assert "no such" in str(caught.value).lower()
