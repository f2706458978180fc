"""Mapping files: rows to events."""

from pathlib import Path

import msgspec
import pytest

from banking.streaming.events import InvalidEventError
from producer.mapping import MappingError, MappingFile, Row, RowMapping, find_mapping

HEAD = 'entity_type = "transaction"\nid = "t-{nr}"\n'


def mapping(text, head=HEAD):
    return RowMapping(msgspec.toml.decode(head + text, type=MappingFile), "test.toml")


def payload(text, values, head=HEAD):
    return mapping(text, head).event(Row(1, {"nr": "7", **values}), "file").payload


def test_columns_templates_and_constants():
    event = mapping(
        'source = "bank"\n[payload]\nreference = "ref"\ncurrency = { value = "EUR" }\n'
        'from_account_id = { template = "acc-{from}" }\n'
    ).event(Row(3, {"nr": "7", "ref": "R1", "from": "9", "other": "x"}), "file")
    assert (event.entity_type, event.entity_id, event.source) == ("transaction", "t-7", "bank")
    assert event.payload == {"reference": "R1", "currency": "EUR", "from_account_id": "acc-9"}


@pytest.mark.parametrize(
    ("field", "cell", "value"),
    [
        ('{ field = "c", type = "money" }', "163.30", "163.30"),
        ('{ field = "c", type = "money" }', " 12 ", "12"),
        ('{ field = "c", type = "integer" }', "-4", -4),
        ('{ field = "c", type = "number" }', "1.5", 1.5),
        ('{ field = "c", type = "boolean" }', "Yes", True),
        ('{ field = "c", type = "boolean" }', "0", False),
        ('{ field = "c", type = "date" }', "2024-03-31", "2024-03-31"),
        ('{ field = "c", type = "date", format = "%d.%m.%Y" }', "31.03.2024", "2024-03-31"),
        ('{ field = "c", type = "timestamp" }', "2024-03-31T12:00:00+02:00", "2024-03-31T10:00:00Z"),
        ('{ field = "c", type = "timestamp", zone = "UTC" }', "2024-03-31 12:00:00", "2024-03-31T12:00:00Z"),
        (
            '{ field = "c", type = "timestamp", zone = "UTC", format = "%d/%m/%y %H:%M" }',
            "31/03/24 12:30",
            "2024-03-31T12:30:00Z",
        ),
        (
            '{ field = "c", type = "timestamp", base = 2024-01-01T00:00:00Z, unit = "days" }',
            "3",
            "2024-01-04T00:00:00Z",
        ),
        (
            '{ field = "c", type = "timestamp", base = 2024-01-01T00:00:00Z, unit = "hours" }',
            "1.5",
            "2024-01-01T01:30:00Z",
        ),
        ('{ field = "c", type = "json" }', '["a", 1]', ["a", 1]),
        ('{ field = "c", values = { 0 = "low", 1 = "high" } }', "1", "high"),
        ('{ field = "c", missing = ["", "-1"] }', "-1", None),
        ('"c"', "", None),
    ],
)
def test_cells_are_read_by_their_type(field, cell, value):
    assert payload(f"[payload]\nx = {field}\n", {"c": cell}).get("x") == value


def test_declared_fields_need_no_type():
    values = {"amount": "5", "executed_at": "2024-03-31T12:00:00Z"}
    read = payload('[payload]\namount = "amount"\nexecuted_at = "executed_at"\n', values)
    assert read == {"amount": "5", "executed_at": "2024-03-31T12:00:00Z"}


def test_numbers_with_a_decimal_comma():
    read = payload(
        '[csv]\ndecimal_separator = ","\n[payload]\namount = "c"\nx = { field = "c", type = "number" }', {"c": "12,50"}
    )
    assert read == {"amount": "12.50", "x": 12.5}


@pytest.mark.parametrize(
    ("field", "cell", "problem"),
    [
        ('{ field = "c", type = "money" }', "1,5", "decimal"),
        ('{ field = "c", type = "integer" }', "1.5", "invalid literal"),
        ('{ field = "c", type = "boolean" }', "maybe", "true or false"),
        ('{ field = "c", type = "date" }', "31.03.2024", "isoformat"),
        ('{ field = "c", type = "timestamp" }', "2024-03-31T12:00:00", "no offset"),
        ('{ field = "c", type = "timestamp", base = 2024-01-01T00:00:00Z }', "x", "expected a number"),
        (
            '{ field = "c", type = "timestamp", base = 2024-01-01T00:00:00Z, unit = "days" }',
            "9999999999",
            "range|large|days",
        ),
        ('{ field = "c", values = { 0 = "low" } }', "2", "expected one of 0"),
        ('{ field = "c", required = true }', "", "empty"),
        ('{ template = "a-{c}" }', "", "'c' is empty"),
    ],
)
def test_a_cell_that_cannot_be_read_names_the_payload_field(field, cell, problem):
    with pytest.raises(InvalidEventError, match=problem) as caught:
        payload(f"[payload]\nx = {field}\n", {"c": cell})
    assert caught.value.field == "payload.x"


def test_a_row_without_its_id_is_refused():
    with pytest.raises(InvalidEventError, match="'nr' is empty") as caught:
        mapping("").event(Row(1, {"nr": ""}), "file")
    assert caught.value.field == "entity_id"


def test_version_time_and_text():
    text = 'text_for_embedding = "paid {a}"\nversion = { field = "v" }\ntimestamp = { field = "t" }\n'
    event = mapping(text).event(Row(1, {"nr": "7", "v": "12", "t": "2024-03-31T12:00:00Z", "a": "5"}), "file")
    assert (event.version, event.timestamp.isoformat()) == (12, "2024-03-31T12:00:00+00:00")
    assert event.text_for_embedding == "paid 5"


def test_a_delete_carries_no_payload():
    event = mapping('event_type = "delete"\n[payload]\namount = "a"\n').event(Row(1, {"nr": "7", "a": "5"}), "file")
    assert (event.event_type, event.payload) == ("delete", {})


def test_columns_without_a_mapping_keep_their_names_and_get_their_declared_types():
    event = RowMapping.of_columns("person", "nr").event(
        Row(1, {"nr": "7", "name": "Ada", "is_pep": "false", "shoe_size": "38", "tags": ["a"], "x": ""}), "file"
    )
    assert event.entity_id == "7"
    assert event.payload == {"name": "Ada", "is_pep": False, "shoe_size": "38", "tags": ["a"]}


def test_row_number_and_digest_make_an_id():
    numbered = mapping("", 'entity_type = "transaction"\nid = "p-{row}-{digest}"\n')
    first = numbered.event(Row(1, {"a": "1", "b": "2"}), "file").entity_id
    assert first == numbered.event(Row(1, {"a": "1", "b": "2"}), "file").entity_id
    assert first.startswith("p-1-")
    assert first != numbered.event(Row(1, {"a": "12", "b": ""}), "file").entity_id
    assert first != numbered.event(Row(2, {"a": "1", "b": "2"}), "file").entity_id


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('entity_type = "acount"\nid = "{a}"', "entity_type: expected one of"),
        ('entity_type = "account"\nid = "same"', "id: names no column"),
        ('entity_type = "account"\nid = "{a}"\nother_columns = "some"', "other_columns"),
        ('entity_type = "account"\nid = "{a}"\n[payload]\nx = { type = "money" }', "payload.x: expected exactly one"),
        (
            'entity_type = "account"\nid = "{a}"\n[payload]\nx = { field = "a", value = 1 }',
            "payload.x: expected exactly one",
        ),
        ('entity_type = "account"\nid = "{a}"\n[payload]\nx = { field = "a", unit = "weeks" }', "unit"),
        (
            'entity_type = "account"\nid = "{a}"\n[payload]\nx = { field = "a", type = "timestamp", zone = "Mars" }',
            "zone",
        ),
        ('entity_type = "account"\nid = "{a}"\n[csv]\ndelimiter = "::"', "csv.delimiter"),
        ('entity_type = "account"\nid = "{a}"\n[csv]\nencoding = "klingon"', "csv.encoding"),
    ],
)
def test_a_mapping_that_cannot_be_used_names_the_key(text, problem):
    with pytest.raises(MappingError, match=problem):
        mapping(text, "")


@pytest.mark.parametrize("content", ["id = ", 'id = "{a}"', 'entity_type = "account"\nid = "{a}"\nunknown = 1', None])
def test_a_file_that_is_no_mapping_is_named(tmp_path, content):
    path = tmp_path / "m.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MappingError, match=r"m\.toml"):
        RowMapping.read(path)


def test_the_included_mappings_can_be_used():
    for name in ("amlsim-accounts", "amlsim-payments"):
        assert RowMapping.read(find_mapping(name)).columns
    with pytest.raises(MappingError, match="amlsim-accounts"):
        find_mapping("none-such")
    assert find_mapping(__file__) == Path(__file__)


def test_a_simulated_payment():
    rows = RowMapping.read(find_mapping("amlsim-payments"))
    event = rows.event(Row(5, {"sourceNodeId": "216", "targetNodeId": "14730", "value": "163.3", "time": "1"}), "f")
    assert event.entity_id.startswith("amlsim-payment-5-")
    assert event.payload["amount"] == "163.3"
    assert event.payload["executed_at"] == "2024-01-02T00:00:00Z"
    assert event.payload["from_account_id"] == "amlsim-account-216"
    assert event.payload["to_account_id"] == "amlsim-account-14730"


def test_a_simulated_account():
    rows = RowMapping.read(find_mapping("amlsim-accounts"))
    event = rows.event(Row(1, {"nodeid": "0", "isFraud": "0", "init_balance": "184.44", "fraudStep": "-1"}), "f")
    assert event.entity_id == "amlsim-account-0"
    assert event.payload["balance"] == "184.44"
    assert event.payload["risk_level"] == "low"
    assert "fraud_step" not in event.payload
