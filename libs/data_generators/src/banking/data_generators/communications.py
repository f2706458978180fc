"""Communications."""

from __future__ import annotations

from typing import TYPE_CHECKING

from banking.data_generators import lexicon
from banking.data_generators.accounts import AccountGenerator
from banking.data_generators.entities import Communication
from banking.data_generators.generator import EntityGenerator
from banking.data_generators.patterns import Patterns
from banking.data_generators.population import (
    HISTORY_DAYS,
    SECONDS_PER_DAY,
    CountsError,
    Draw,
    moment,
    uuid_of,
)
from banking.data_generators.texts import CLOSINGS, ITEMS, MONTHS, OPENINGS, PATTERN_TOPICS, TOPICS

if TYPE_CHECKING:
    from banking.data_generators.patterns import Plan
    from banking.data_generators.persons import PersonProfile
    from banking.data_generators.population import Counts
    from banking.data_generators.texts import Topic

_RECIPIENTS = (1,) * 8 + (2,) * 2 + (3,)


class CommunicationGenerator(EntityGenerator[Communication]):
    """Makes messages between persons on matters of a bank, some of them about the planted patterns."""

    def __init__(self, seed: int = 42, counts: Counts | None = None) -> None:
        super().__init__(seed, counts)
        self.accounts = AccountGenerator(seed, counts)
        self.patterns = Patterns(self.accounts)
        self._topics = [topic for topic in TOPICS for _ in range(topic.weight)]

    def at(self, index: int) -> Communication:
        """Communication number `index`."""
        digest = self.population.digest("communication", index)
        draw = Draw(digest)
        topic, plan = self._topic(index, draw)
        sender, recipients = self._people(plan, draw)
        sent_at = draw.between(-HISTORY_DAYS * SECONDS_PER_DAY, -SECONDS_PER_DAY)
        if plan is not None:
            sent_at = plan.payments[0].executed_at - draw.between(600, 2 * SECONDS_PER_DAY)
        subject, body = self._write(topic, sender, recipients[0], draw)
        return Communication(
            communication_id=uuid_of(digest),
            channel=draw.choice(topic.channels),
            sender_id=self.population.entity_id("person", sender),
            recipient_ids=[self.population.entity_id("person", recipient) for recipient in recipients],
            subject=subject,
            body=body,
            language=topic.language,
            sent_at=moment(sent_at),
            created_at=moment(sent_at + draw.between(1, 20)),
        )

    def topic(self, index: int) -> str:
        """What communication number `index` is about: a name from `texts`, for judging a search."""
        return self._topic(index, Draw(self.population.digest("communication", index)))[0].name

    def _topic(self, index: int, draw: Draw) -> tuple[Topic, Plan | None]:
        topic = draw.choice(self._topics)
        plan = self.patterns.behind_communication(index)
        return (topic, None) if plan is None else (PATTERN_TOPICS[plan.kind], plan)

    def _people(self, plan: Plan | None, draw: Draw) -> tuple[int, list[int]]:
        """A sender and different recipients."""
        persons = self.population.counts.persons
        if persons < 2:
            raise CountsError("communications: they need at least 2 persons")
        if plan is not None:
            sender, *recipients = self.patterns.contacts(plan)
            return sender, recipients[:1]
        sender = draw.below(persons)
        number = min(draw.choice(_RECIPIENTS), persons - 1)
        offset = 1 + draw.below(persons - number)
        return sender, [(sender + offset + place) % persons for place in range(number)]

    def _write(self, topic: Topic, sender: int, recipient: int, draw: Draw) -> tuple[str, str]:
        writer, reader = self._profile(sender), self._profile(recipient)
        slots = {
            "amount": f"{draw.between(12, 990) * topic.amount_unit:,} {writer.country.currency}",
            "city": draw.choice(lexicon.names(writer.country.locale).cities),
            "bank": draw.choice(writer.country.banks).name,
            "company": self._company(draw),
            "month": draw.choice(MONTHS),
            "item": draw.choice(ITEMS),
            "digits": f"{draw.below(10_000):04d}",
            "number": str(draw.between(1_000, 99_999)),
            "reader": reader.first_name,
            "writer": writer.name,
        }
        sentences = [draw.choice(choices) for choices in topic.sentences]
        parts = [draw.choice(OPENINGS[topic.language]), *sentences, draw.choice(CLOSINGS[topic.language])]
        return draw.choice(topic.subjects).format_map(slots), " ".join(parts).format_map(slots)

    def _profile(self, person: int) -> PersonProfile:
        return self.accounts.persons.profile(person)

    def _company(self, draw: Draw) -> str:
        companies = self.population.counts.companies
        if not companies:
            return f"{draw.choice(lexicon.SHELL_WORDS)} {draw.choice(lexicon.SHELL_SUFFIXES)} Ltd"
        return self.accounts.companies.profile(draw.below(companies)).name
