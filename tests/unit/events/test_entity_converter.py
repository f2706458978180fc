"""The converter: every kind of entity gives the same event, nothing is changed in silence, errors name the field."""

from __future__ import annotations

import enum
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.data_generators import BankingUniverse, PersonGenerator
from banking.streaming.entities import ENTITY_MODELS, EntityType
from banking.streaming.entity_converter import (
    convert_entities_to_events,
    convert_entity_to_event,
    entity_to_dict,
    get_entity_id,
    get_entity_type,
    get_text_for_embedding,
)
from banking.streaming.events import InvalidEventError, compose_text, decode_event, encode_event

OPENED = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
BALANCE = Decimal("12345678901234567890.10")


class OwnerStruct(msgspec.Struct):
    owner_id: str
    owner_type: str


class AccountStruct(msgspec.Struct):
    account_id: str
    balance: Decimal
    opened_on: date
    created_at: datetime
    joint_owners: list[OwnerStruct]


@dataclass
class OwnerData:
    owner_id: str
    owner_type: str


@dataclass
class AccountData:
    account_id: str
    balance: Decimal
    opened_on: date
    created_at: datetime
    joint_owners: list[OwnerData] = field(default_factory=list)


class OwnerModel(pydantic.BaseModel):
    owner_id: str
    owner_type: str


class AccountModel(pydantic.BaseModel):
    account_id: str
    balance: Decimal
    opened_on: date
    created_at: datetime
    joint_owners: list[OwnerModel]


def account(make: Any, owner: Any, **changes: Any) -> Any:
    fields = {
        "account_id": "a-1",
        "balance": BALANCE,
        "opened_on": date(2024, 2, 29),
        "created_at": OPENED,
        "joint_owners": [owner(owner_id="p-1", owner_type="person")],
    }
    return make(**{**fields, **changes})


KINDS = {
    "struct": (AccountStruct, OwnerStruct),
    "dataclass": (AccountData, OwnerData),
    "pydantic": (AccountModel, OwnerModel),
    "dict": (dict, dict),
    "mapping": (OrderedDict, OrderedDict),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_event(kind):
    entity = account(*KINDS[kind])
    event = convert_entity_to_event(entity, source="MyApp", event_id="e", timestamp=OPENED)
    assert event.key == (EntityType.ACCOUNT, "a-1")
    assert event.payload == {
        "balance": BALANCE,
        "opened_on": "2024-02-29",
        "created_at": "2024-02-29T12:30:00Z",
        "joint_owners": [{"owner_id": "p-1", "owner_type": "person"}],
    }
    assert type(event.payload["balance"]) is Decimal
    assert event.source == "MyApp"
    decoded = decode_event(encode_event(event))
    assert Decimal(decoded.payload["balance"]) == BALANCE
    assert get_entity_type(entity) is EntityType.ACCOUNT
    assert get_entity_id(entity) == "a-1"
    assert entity_to_dict(entity) == {"account_id": "a-1", **event.payload}


def test_every_generated_entity_converts_and_survives_the_wire():
    for entity in BankingUniverse(seed=42).entities():
        event = convert_entity_to_event(entity, source="test", timestamp=entity.created_at)
        model = ENTITY_MODELS[event.entity_type]
        assert event.entity_type == entity.entity_type
        assert event.entity_id == getattr(entity, model.id_field) == get_entity_id(entity)
        assert model.id_field not in event.payload
        decoded = decode_event(encode_event(event))
        # What msgspec itself writes of the entity is what the payload holds.
        wire = msgspec.json.decode(msgspec.json.encode(entity))
        assert decoded.payload | {model.id_field: event.entity_id} == wire
        assert decoded.text_for_embedding == get_text_for_embedding(entity) == compose_text(event.entity_type, wire)
        assert decoded.text_for_embedding


@pytest.mark.parametrize(
    ("entity", "expected"),
    [
        ({"entity_type": "person", "id": 7}, (EntityType.PERSON, "7")),
        ({"entity_type": "company", "entity_id": "c"}, (EntityType.COMPANY, "c")),
        ({"entity_type": EntityType.COMPANY, "company_id": "c", "id": "x"}, (EntityType.COMPANY, "c")),
        ({"transaction_id": UUID(int=1)}, (EntityType.TRANSACTION, str(UUID(int=1)))),
        ({"entity_type": None, "communication_id": "m", "sender_id": "p"}, (EntityType.COMMUNICATION, "m")),
        ({"entity_type": "communication", "communication_id": "m", "person_id": "p"}, ("communication", "m")),
    ],
)
def test_type_and_id_are_found(entity, expected):
    event = convert_entity_to_event(entity)
    assert event.key == expected
    assert (get_entity_type(entity), get_entity_id(entity)) == expected
    assert "entity_type" not in event.payload


def test_caller_may_say_type_and_id_and_then_no_field_is_lost():
    row = {"entity_type": "LLC", "name": "Acme", "company_id": "old"}
    event = convert_entity_to_event(row, entity_type="company", entity_id="c-1", version=3)
    assert (event.key, event.version) == ((EntityType.COMPANY, "c-1"), 3)
    assert event.payload == row
    assert convert_entity_to_event(row, entity_type="company").payload == {"entity_type": "LLC", "name": "Acme"}


def test_struct_is_taken_as_msgspec_encodes_it():
    class Customer(
        msgspec.Struct, rename="camel", omit_defaults=True, tag_field="entity_type", tag="person", kw_only=True
    ):
        last_name: str
        id: str
        nick_names: list[str] = []
        middle_name: str | None = None
        title: str | msgspec.UnsetType = msgspec.UNSET

    event = convert_entity_to_event(Customer(id="p", last_name="Doe"))
    assert (event.key, event.payload) == ((EntityType.PERSON, "p"), {"lastName": "Doe"})
    event = convert_entity_to_event(Customer(id="p", last_name="Doe", nick_names=["J"], title="Dr"))
    assert event.payload == {"lastName": "Doe", "nickNames": ["J"], "title": "Dr"}

    class Row(msgspec.Struct, array_like=True):
        person_id: str

    with pytest.raises(TypeError, match="Row is encoded as an array"):
        convert_entity_to_event(Row("p"))


def test_dataclass_may_say_its_type_on_the_class():
    @dataclass
    class Customer:
        entity_type: ClassVar[str] = "person"
        id: str

    assert convert_entity_to_event(Customer("p")).key == (EntityType.PERSON, "p")


def test_pydantic_aliases_are_the_names():
    class Customer(pydantic.BaseModel):
        person_id: str = pydantic.Field(alias="personId", serialization_alias="person_id")
        last: str = pydantic.Field(serialization_alias="last_name")

    assert convert_entity_to_event(Customer(personId="p", last="Doe")).payload == {"last_name": "Doe"}


class Colour(enum.Enum):
    RED = "red"


class Level(enum.StrEnum):
    HIGH = "high"


class Size(enum.IntEnum):
    BIG = 3


def test_values_become_what_json_holds():
    values = {
        "colour": Colour.RED,
        "level": Level.HIGH,
        "size": Size.BIG,
        "uuid": UUID(int=5),
        "tags": {"b", "a", "c"},
        "pair": (1, None),
        "at": time(8, 30),
        "when": datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))),
        "nested": {"deep": [{"amount": Decimal("0.10")}]},
        "flag": True,
        "ratio": 0.5,
        "nothing": None,
    }
    assert convert_entity_to_event({"person_id": "p", **values}).payload == {
        "colour": "red",
        "level": "high",
        "size": 3,
        "uuid": str(UUID(int=5)),
        "tags": ["a", "b", "c"],
        "pair": [1, None],
        "at": "08:30:00",
        "when": "2024-01-01T00:00:00+02:00",
        "nested": {"deep": [{"amount": Decimal("0.10")}]},
        "flag": True,
        "ratio": 0.5,
        "nothing": None,
    }


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"x": value}
    return value


@pytest.mark.parametrize(
    ("entity", "named"),
    [
        ({"name": "x"}, "entity_type"),
        ({"person_id": "p", "company_id": "c"}, "entity_type"),
        ({"entity_type": "robot", "id": "r"}, "entity_type"),
        ({"entity_type": 7, "id": "r"}, "entity_type"),
        ({"entity_type": "person"}, "person_id"),
        ({"person_id": None}, "person_id"),
        ({"person_id": 1.5}, "person_id"),
        ({"person_id": True}, "person_id"),
        ({"person_id": "two words"}, "entity_id"),
        ({"account_id": "a", "balance": 12.5}, "payload.balance"),
        ({"person_id": "p", "created_at": datetime(2024, 1, 1)}, "payload.created_at"),
        ({"person_id": "p", "created_at": date(2024, 1, 1)}, "payload.created_at"),
        ({"person_id": "p", "date_of_birth": OPENED}, "payload.date_of_birth"),
        ({"person_id": "p", "photo": b"x"}, "payload.photo"),
        ({"person_id": "p", "devices": [{"id": 1}, {"id": object()}]}, "payload.devices[1].id"),
        ({"person_id": "p", "devices": [{2: "x"}]}, "payload.devices[0]"),
        ({"person_id": "p", 3: "x"}, "payload"),
        ({"person_id": "p", "tree": deep(80)}, "payload.tree"),
    ],
)
def test_errors_name_the_field(entity, named):
    with pytest.raises(InvalidEventError) as error:
        convert_entity_to_event(entity)
    assert error.value.field == named or error.value.field.startswith(f"{named}.x.")
    assert str(error.value).startswith(error.value.field)


@pytest.mark.parametrize("entity", [None, "person-1", 7, ["person_id"], object(), AccountData, AccountModel])
def test_what_is_no_entity_is_refused(entity):
    with pytest.raises(TypeError, match="expected a msgspec struct, dataclass instance, pydantic model or mapping"):
        convert_entity_to_event(entity)


def test_delete_carries_no_payload():
    event = convert_entity_to_event({"person_id": "p", "name": "x"}, event_type="delete")
    assert event.payload == {}
    encode_event(event)


def test_options_reach_the_event():
    event = convert_entity_to_event(
        {"person_id": "p", "name": "Ada"}, "s", event_type="update", text_for_embedding="other", metadata={"batch": 1}
    )
    assert (event.event_type, event.text_for_embedding, event.metadata) == ("update", "other", {"batch": 1})
    assert convert_entity_to_event({"person_id": "p", "name": "Ada"}).text_for_embedding == "Ada"


def test_many_entities_are_converted_when_they_are_asked_for():
    def rows():
        yield {"person_id": "p", "name": "x"}
        yield account(AccountStruct, OwnerStruct)
        yield {"account_id": "a", "balance": 0.1}
        raise AssertionError("read too far")

    events = convert_entities_to_events(rows(), source="s", event_type="update", metadata={"batch": 1})
    assert next(events).key == ("person", "p")
    second = next(events)
    assert (second.key, second.event_type, second.source) == (("account", "a-1"), "update", "s")
    with pytest.raises(InvalidEventError, match=r"^entities\[2\]\.payload\.balance: is money") as error:
        next(events)
    assert error.value.field == "entities[2].payload.balance"


def test_entity_is_left_as_it_was():
    row = {"account_id": "a", "tags": ["x"], "owner": {"id": 1}}
    event = convert_entity_to_event(row)
    event.payload["tags"].append("y")
    event.payload["owner"]["id"] = 2
    assert row == {"account_id": "a", "tags": ["x"], "owner": {"id": 1}}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(payload=st.dictionaries(st.text().map(lambda key: f"x{key}"), JSON, max_size=6))
def test_undeclared_fields_are_kept_as_they_are(payload):
    event = convert_entity_to_event({"person_id": "p", **payload})
    assert event.payload == payload
    assert decode_event(encode_event(event)).payload == payload


@given(amount=st.decimals(allow_nan=False, allow_infinity=False))
def test_money_is_exact(amount):
    event = convert_entity_to_event({"account_id": "a", "balance": amount})
    held = Decimal(decode_event(encode_event(event)).payload["balance"])
    assert held.as_tuple() == amount.as_tuple()


def test_documented_snippet():
    person = PersonGenerator(seed=42).generate()
    event = convert_entity_to_event(person, source="MyApp")
    assert (event.entity_type, event.entity_id) == ("person", person.person_id)
    assert event.payload["name"] == person.name


def test_import_needs_neither_pydantic_nor_generators():
    code = (
        "import sys, banking.streaming.entity_converter as c; c.convert_entity_to_event({'person_id': 'p'});"
        "print([m for m in ('pydantic', 'mimesis', 'banking.data_generators') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
