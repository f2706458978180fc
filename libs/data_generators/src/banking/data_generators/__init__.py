"""Coherent generated banking entities: persons, companies, accounts, transactions and communications.

>>> from banking.data_generators import BankingUniverse, PersonGenerator
>>> person = PersonGenerator(seed=42).generate()
>>> entities = BankingUniverse(seed=42).entities()
"""

from banking.data_generators.accounts import AccountGenerator
from banking.data_generators.communications import CommunicationGenerator
from banking.data_generators.companies import CompanyGenerator
from banking.data_generators.entities import (
    Account,
    BeneficialOwner,
    Communication,
    Company,
    Entity,
    JointOwner,
    Officer,
    Pattern,
    Person,
    Transaction,
)
from banking.data_generators.persons import PersonGenerator
from banking.data_generators.population import REFERENCE_TIME, Counts, CountsError
from banking.data_generators.transactions import TransactionGenerator
from banking.data_generators.universe import BankingUniverse

__all__ = [
    "REFERENCE_TIME",
    "Account",
    "AccountGenerator",
    "BankingUniverse",
    "BeneficialOwner",
    "Communication",
    "CommunicationGenerator",
    "Company",
    "CompanyGenerator",
    "Counts",
    "CountsError",
    "Entity",
    "JointOwner",
    "Officer",
    "Pattern",
    "Person",
    "PersonGenerator",
    "Transaction",
    "TransactionGenerator",
]
