"""The control totals of generated data, and the broker's settings that the command uses."""

import pytest

from banking.streaming.broker import BrokerUnavailableError
from banking.streaming.events import create_person_event
from banking.streaming.producer import EntityProducer, EventsNotPublishedError, PublishFailure, PublishReport
from producer import cli, totals
from producer.intake import IdHash


@pytest.fixture
def producer(monkeypatch):
    """A producer whose events go nowhere."""
    monkeypatch.setattr(EntityProducer, "__init__", lambda self, broker: None)
    monkeypatch.setattr(EntityProducer, "send", lambda self, event: None)
    monkeypatch.setattr(EntityProducer, "flush", lambda self, timeout_seconds: None)
    return totals.TotallingProducer(None)


def send(producer, *ids):
    for entity_id in ids:
        producer.send(create_person_event(entity_id, "Ann"))


def hash_of(*ids):
    hashed = IdHash()
    for entity_id in ids:
        hashed.add(entity_id)
    return hashed.hex()


def failing(*ids, unnamed=0):
    report = PublishReport(0, len(ids) + unnamed, [PublishFailure("e", entity_id, "timed out") for entity_id in ids])

    def flush(_self, _timeout_seconds):
        raise EventsNotPublishedError(report)

    return flush


def test_what_is_stored_is_in_the_hash(producer):
    send(producer, "a", "b", "c")
    producer.flush()
    assert producer.accepted_ids_hash == hash_of("c", "b", "a")


def test_what_failed_is_taken_out(producer, monkeypatch):
    send(producer, "a", "b", "c")
    monkeypatch.setattr(EntityProducer, "flush", failing("b"))
    with pytest.raises(EventsNotPublishedError):
        producer.flush()
    assert producer.accepted_ids_hash == hash_of("a", "c")


def test_without_the_name_of_every_failure_there_is_no_hash(producer, monkeypatch):
    send(producer, "a", "b", "c")
    monkeypatch.setattr(EntityProducer, "flush", failing("b", unnamed=1))
    with pytest.raises(EventsNotPublishedError):
        producer.flush()
    assert producer.accepted_ids_hash is None


def test_the_generator_s_command_takes_token_and_certificates(monkeypatch, tmp_path, capsys):
    (tmp_path / "token").write_text("secret-token\n")
    (tmp_path / "ca.pem").write_text("certificates")
    monkeypatch.setenv("PULSAR_URL", "pulsar+ssl://broker:6651")
    monkeypatch.setenv("PULSAR_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("PULSAR_TLS_TRUST_CERTS_FILE", str(tmp_path / "ca.pem"))
    asked = []

    def connect(options):
        asked.append(options)
        raise BrokerUnavailableError("is away")

    monkeypatch.setattr("banking.streaming.producer.connect", connect)
    with pytest.raises(SystemExit) as ended:
        cli.app(["generate", "--output", str(tmp_path / "out")])
    assert ended.value.code == cli.EXIT_UNUSABLE
    assert "is away" in capsys.readouterr().err
    [options] = asked
    assert (options.url, options.token) == ("pulsar+ssl://broker:6651", "secret-token")
    assert options.tls_trust_certs_file == str(tmp_path / "ca.pem")
