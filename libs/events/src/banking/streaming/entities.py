"""What is declared of each entity type: its payload fields and the references between entities.

This is the one place that knows the model. The graph leg makes property keys and edges of it, the vector leg its
mappings, the converter its texts. A payload may hold more than is declared here: both legs keep the rest as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class EntityType(StrEnum):
    """The kinds of entity that the fleet carries; the value is what stands on the wire."""

    PERSON = "person"
    ACCOUNT = "account"
    TRANSACTION = "transaction"
    COMPANY = "company"
    COMMUNICATION = "communication"


class Kind(StrEnum):
    """How a declared field is typed in the stores."""

    KEYWORD = "keyword"  # a string that is looked up as a whole
    TEXT = "text"  # a string whose words are searched
    MONEY = "money"  # an exact decimal, as a decimal string on the wire
    NUMBER = "number"  # a floating-point number
    INTEGER = "integer"  # a signed 64-bit integer
    BOOLEAN = "boolean"
    DATE = "date"  # YYYY-MM-DD
    TIMESTAMP = "timestamp"  # RFC 3339 with an offset


@dataclass(frozen=True, slots=True)
class Field:
    """A declared payload field.

    Attributes:
        name: The key in the payload.
        kind: How the stores type it.
        lookup: Whether investigators look entities up by it, so that the graph keeps an index.
        embedded: Whether its value is part of the text that is embedded.
    """

    name: str
    kind: Kind
    lookup: bool = False
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class Reference:
    """A payload field that names other entities and so becomes an edge, owned by the entity that has the payload.

    Attributes:
        edge: The edge's label.
        field: The payload key that holds the id, or the list of ids or objects where `many`.
        targets: The types that the entity named may have.
        type_field: The key, beside the id, that says which of them it has; None where there is but one.
        many: Whether the field holds a list.
        id_field: In a list of objects, the key of the id; None where the list holds plain ids.
        role: A constant `role` property of the edge.
        properties: Keys copied to the edge: from the list's object where `id_field` is set, else from the payload.
    """

    edge: str
    field: str
    targets: tuple[EntityType, ...]
    type_field: str | None = None
    many: bool = False
    id_field: str | None = None
    role: str | None = None
    properties: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class EntityModel:
    """Everything declared of one entity type."""

    entity_type: EntityType
    plural: str
    id_field: str
    fields: tuple[Field, ...]
    references: tuple[Reference, ...] = ()

    @property
    def declared(self) -> frozenset[str]:
        """The names of the declared fields."""
        return frozenset(field.name for field in self.fields)


_PERSON = EntityModel(
    EntityType.PERSON,
    plural="persons",
    id_field="person_id",
    fields=(
        Field("name", Kind.TEXT, lookup=True, embedded=True),
        Field("first_name", Kind.TEXT),
        Field("last_name", Kind.TEXT, lookup=True),
        Field("date_of_birth", Kind.DATE),
        Field("nationality", Kind.KEYWORD),
        Field("email", Kind.KEYWORD, lookup=True),
        Field("phone", Kind.KEYWORD, lookup=True),
        Field("street", Kind.TEXT),
        Field("city", Kind.KEYWORD, embedded=True),
        Field("postal_code", Kind.KEYWORD),
        Field("country", Kind.KEYWORD),
        Field("occupation", Kind.TEXT, embedded=True),
        Field("employer_id", Kind.KEYWORD),
        Field("risk_level", Kind.KEYWORD),
        Field("is_pep", Kind.BOOLEAN),
        Field("created_at", Kind.TIMESTAMP),
    ),
    references=(Reference("employed_by", "employer_id", (EntityType.COMPANY,)),),
)

_COMPANY = EntityModel(
    EntityType.COMPANY,
    plural="companies",
    id_field="company_id",
    fields=(
        Field("name", Kind.TEXT, lookup=True, embedded=True),
        Field("legal_form", Kind.KEYWORD),
        Field("registration_number", Kind.KEYWORD, lookup=True),
        Field("industry", Kind.TEXT, embedded=True),
        Field("street", Kind.TEXT),
        Field("city", Kind.KEYWORD, embedded=True),
        Field("postal_code", Kind.KEYWORD),
        Field("country", Kind.KEYWORD),
        Field("founded_on", Kind.DATE),
        Field("website", Kind.KEYWORD),
        Field("parent_id", Kind.KEYWORD),
        Field("risk_level", Kind.KEYWORD),
        Field("created_at", Kind.TIMESTAMP),
    ),
    references=(
        Reference("subsidiary_of", "parent_id", (EntityType.COMPANY,)),
        Reference(
            "has_officer",
            "officers",
            (EntityType.PERSON,),
            many=True,
            id_field="person_id",
            properties=(Field("role", Kind.KEYWORD),),
        ),
    ),
)

_OWNERS = (EntityType.PERSON, EntityType.COMPANY)

_ACCOUNT = EntityModel(
    EntityType.ACCOUNT,
    plural="accounts",
    id_field="account_id",
    fields=(
        Field("account_number", Kind.KEYWORD, lookup=True),
        Field("iban", Kind.KEYWORD, lookup=True),
        Field("account_type", Kind.KEYWORD, embedded=True),
        Field("currency", Kind.KEYWORD, embedded=True),
        Field("balance", Kind.MONEY),
        Field("status", Kind.KEYWORD),
        Field("opened_on", Kind.DATE),
        Field("owner_id", Kind.KEYWORD),
        Field("owner_type", Kind.KEYWORD),
        Field("bank_name", Kind.TEXT, embedded=True),
        Field("risk_level", Kind.KEYWORD),
        Field("created_at", Kind.TIMESTAMP),
    ),
    references=(
        Reference("owned_by", "owner_id", _OWNERS, type_field="owner_type", role="owner"),
        Reference(
            "owned_by", "joint_owners", _OWNERS, type_field="owner_type", many=True, id_field="owner_id", role="joint"
        ),
        Reference(
            "owned_by",
            "beneficial_owners",
            _OWNERS,
            type_field="owner_type",
            many=True,
            id_field="owner_id",
            role="beneficial",
            properties=(Field("percentage", Kind.NUMBER),),
        ),
    ),
)

_PAYMENT_PROPERTIES = (
    Field("amount", Kind.MONEY),
    Field("currency", Kind.KEYWORD),
    Field("executed_at", Kind.TIMESTAMP),
)

_TRANSACTION = EntityModel(
    EntityType.TRANSACTION,
    plural="transactions",
    id_field="transaction_id",
    fields=(
        Field("from_account_id", Kind.KEYWORD),
        Field("to_account_id", Kind.KEYWORD),
        Field("amount", Kind.MONEY),
        Field("currency", Kind.KEYWORD),
        Field("transaction_type", Kind.KEYWORD, embedded=True),
        Field("description", Kind.TEXT, embedded=True),
        Field("reference", Kind.KEYWORD, lookup=True),
        Field("status", Kind.KEYWORD),
        Field("executed_at", Kind.TIMESTAMP),
        Field("created_at", Kind.TIMESTAMP),
    ),
    references=(
        Reference("from_account", "from_account_id", (EntityType.ACCOUNT,), properties=_PAYMENT_PROPERTIES),
        Reference("to_account", "to_account_id", (EntityType.ACCOUNT,), properties=_PAYMENT_PROPERTIES),
    ),
)

_COMMUNICATION = EntityModel(
    EntityType.COMMUNICATION,
    plural="communications",
    id_field="communication_id",
    fields=(
        Field("channel", Kind.KEYWORD),
        Field("sender_id", Kind.KEYWORD),
        Field("subject", Kind.TEXT, embedded=True),
        Field("body", Kind.TEXT, embedded=True),
        Field("language", Kind.KEYWORD),
        Field("sent_at", Kind.TIMESTAMP),
        Field("created_at", Kind.TIMESTAMP),
    ),
    references=(
        Reference("sent_by", "sender_id", (EntityType.PERSON,)),
        Reference("received_by", "recipient_ids", (EntityType.PERSON,), many=True),
    ),
)

ENTITY_MODELS: Mapping[EntityType, EntityModel] = MappingProxyType(
    {model.entity_type: model for model in (_PERSON, _ACCOUNT, _TRANSACTION, _COMPANY, _COMMUNICATION)}
)
"""The model of every entity type."""
