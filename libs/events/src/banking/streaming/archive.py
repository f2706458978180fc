"""The dead-letter archive: letters that are retried no more, kept for good on file or object storage.

A batch of letters becomes one object per entity type, and beside it a manifest that says everything of the letters but
their content, so that a listing reads no payloads. Both are NDJSON, compressed with zstd:

    v1/letters/date=2026-03-01/type=person/20260301T101500.123456Z-<random>.ndjson.zst
    v1/manifest/date=2026-03-01/type=person/20260301T101500.123456Z-<random>.ndjson.zst
    v1/replays/date=2026-03-02/20260302T080000.000000Z-<random>.ndjson.zst

The date is the day of archiving in UTC. A name never comes twice. An object counts as written once it has been flushed
to the disk, for files, and read back equal; the manifest comes last, so that what it names is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import uuid
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import msgspec
import obstore
import zstandard
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from banking.streaming.dead_letters import new_letter_id, received_letter
from banking.streaming.topics import ENTITY_TOPICS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
    from datetime import date

    from obstore.store import ObjectStore

    from banking.streaming.broker import Delivery

UNKNOWN_TYPE = "unknown"
"""The type of letters that did not come from an entity topic."""

NOT_A_LETTER = "not_a_dead_letter"
"""The reason of messages in the dead-letter topic that no leg has sent. They are kept, but there is no leg to go to."""

_LETTERS = "v1/letters"
_MANIFEST = "v1/manifest"
_REPLAYS = "v1/replays"
_PROBE = "v1/probe"
_CLIENT_OPTIONS = frozenset({"allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout"})
_READS_AT_ONCE = 16
_MAX_UNPACKED_BYTES = 1024**3  # many times what the largest batch of letters takes
_PLACE = re.compile(r"date=\d{4}-\d\d-\d\d/(?:type=[^/]+/)?\d{8}T\d{6}\.\d{6}Z-[^/]+\.ndjson\.zst")
_TYPE_OF_TOPIC = {topic: entity_type.value for entity_type, topic in ENTITY_TOPICS.items()}

Aware = Annotated[datetime, msgspec.Meta(tz=True)]


class ArchiveUnavailableError(Exception):
    """The archive could not be read or written, or does not hold what was written: try again later."""


class LetterRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a manifest says of a letter: everything but its content.

    Attributes:
        letter_id: The letter's id; a letter that was archived twice has the same one twice.
        leg: The leg that rejected it; None for what is no dead letter.
        topic: The topic that it was first received from.
        entity_type: The type of that topic's entities, or `UNKNOWN_TYPE`.
        key: Its partition key, the entity's id as a rule.
        reason: Why it was rejected last.
        error: What was wrong, naming the field.
        attempt: How many retries it has had, those by replay included.
        first_failure: When it was first rejected; for what is no dead letter, when it was archived.
        last_failure: When it was last rejected.
        archived_at: When it was archived.
        event_id: The event's id, where its bytes say one.
        event_time: The event's own time, where its bytes say one.
        size_bytes: The size of its content.
    """

    letter_id: str
    leg: str | None = None
    topic: str
    entity_type: str
    key: str | None = None
    reason: str
    error: str
    attempt: int
    first_failure: Aware
    last_failure: Aware
    archived_at: Aware
    event_id: str | None = None
    event_time: Aware | None = None
    size_bytes: int


class ArchivedLetter(LetterRecord, frozen=True, kw_only=True, omit_defaults=True):
    """A letter with its content.

    Attributes:
        properties: The message's properties as they were.
        text: The content where it is UTF-8.
        base64: The content where it is not.
    """

    properties: dict[str, str] = {}
    text: str | None = None
    base64: str | None = None

    @property
    def data(self) -> bytes:
        """The original bytes.

        Raises:
            ArchiveUnavailableError: They are damaged.
        """
        try:
            return b64decode(self.base64, validate=True) if self.base64 is not None else (self.text or "").encode()
        except ValueError as error:
            raise ArchiveUnavailableError(f"an object of the archive is damaged: {error}") from error

    def record(self) -> LetterRecord:
        """The letter without its content."""
        return msgspec.convert(self, LetterRecord, from_attributes=True)


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A mark: this letter, as it was archived after that attempt, was sent to its leg again."""

    letter_id: str
    attempt: int
    replayed_at: Aware


def archived_letter(delivery: Delivery, now: datetime | None = None) -> ArchivedLetter:
    """A message of the dead-letter topic as it is archived, whether or not it is a dead letter."""
    now = now or datetime.now(UTC)
    try:
        properties, key = delivery.properties, delivery.key
    except UnicodeDecodeError:  # a client in another language wrote them so
        properties, key = {}, None
    text, base64 = _as_text(delivery.data)
    head = _event_head(delivery.data)
    content: dict[str, Any] = {
        "archived_at": now,
        "event_id": head.event_id if head else None,
        "event_time": head.timestamp if head else None,
        "size_bytes": len(delivery.data),
        "properties": properties,
        "text": text,
        "base64": base64,
    }
    try:
        letter = received_letter(delivery)
    except ValueError as error:
        return ArchivedLetter(
            letter_id=new_letter_id(UNKNOWN_TYPE, delivery),
            topic=delivery.topic,
            entity_type=UNKNOWN_TYPE,
            key=key,
            reason=NOT_A_LETTER,
            error=str(error),
            attempt=0,
            first_failure=now,
            last_failure=now,
            **content,
        )
    return ArchivedLetter(
        letter_id=letter.letter_id,
        leg=letter.leg.value,
        topic=letter.topic,
        entity_type=_TYPE_OF_TOPIC.get(letter.topic, UNKNOWN_TYPE),
        key=letter.key,
        reason=letter.reason.value,
        error=letter.error,
        attempt=letter.attempt,
        first_failure=letter.first_failure,
        last_failure=letter.last_failure,
        **content,
    )


def read_store_options(path: Path) -> dict[str, Any]:
    """The settings and secrets of a store, from a file with one JSON object.

    Raises:
        ValueError: There is no such file or no JSON object in it; the message repeats none of it, since it is secret.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise ValueError("expected a readable file with one JSON object")  # noqa: TRY004 - pydantic takes ValueError
    return content


class DeadLetterArchive:
    """Letters on file or object storage. Safe to share by any number of writers and readers.

    Args:
        url: Such as `file:///archive` or `s3://bucket/prefix`: whatever obstore takes. Credentials come from the
            provider's usual environment variables or from `options`.
        options: Settings of the store, such as `endpoint`, `access_key_id` or `allow_http`.
        timeout_seconds: The limit of each read and write.
        now: The time.
        unique: A text that never comes twice.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float = 60.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        unique: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.url = url
        self._options = dict(options or {})
        self._timeout_seconds = timeout_seconds
        self._now = now
        self._unique = unique
        self._opened: ObjectStore | None = None

    async def check(self) -> None:
        """Write a small object, so that a full disk or an absent bucket is noticed before a letter comes.

        Raises:
            ArchiveUnavailableError: It cannot be written.
        """
        await self._write(_PROBE, self._now().isoformat().encode())

    async def write(self, letters: Sequence[ArchivedLetter]) -> list[str]:
        """Write letters durably, one object per entity type, and return the objects' places.

        Raises:
            ArchiveUnavailableError: Not all of them are known to be written. Writing all again is harmless: letters
                have ids.
        """
        groups: dict[str, list[ArchivedLetter]] = {}
        for letter in letters:
            # A purge writes letters again as it has read them: no other text becomes a folder's name.
            known = letter.entity_type in _TYPE_OF_TOPIC.values()
            groups.setdefault(letter.entity_type if known else UNKNOWN_TYPE, []).append(letter)
        places: list[str] = []
        for entity_type, group in groups.items():
            place = self._new_place(f"type={entity_type}/")
            await self._write(f"{_LETTERS}/{place}", await asyncio.to_thread(_pack, group))
            await self._write(f"{_MANIFEST}/{place}", _pack([letter.record() for letter in group]))
            places.append(place)
        return places

    async def places(self, *, since: date | None = None, entity_types: Collection[str] = ()) -> list[str]:
        """The places of the objects that have a manifest, oldest first.

        Args:
            since: The first day of archiving to look at; None for all.
            entity_types: The types to look at; empty for all.

        Raises:
            ArchiveUnavailableError: The archive cannot be listed.
        """
        return [place for place in await self._list(_MANIFEST, since) if _is_of(place, entity_types)]

    async def unlisted_places(self, *, entity_types: Collection[str] = ()) -> list[str]:
        """The places of objects without a manifest, left by a writer that was killed between the two, oldest first.

        Their letters were not acknowledged, so that they are also in a later object. One may be in the making.
        """
        letters = await self._list(_LETTERS, None)
        listed = set(await self._list(_MANIFEST, None))
        return [place for place in letters if place not in listed and _is_of(place, entity_types)]

    async def records(self, places: Iterable[str]) -> AsyncIterator[tuple[str, list[LetterRecord]]]:
        """What the manifests of some places say. A place that was purged meanwhile has no records.

        Raises:
            ArchiveUnavailableError: A manifest cannot be read.
        """
        waiting = list(places)
        while waiting:
            chunk, waiting = waiting[:_READS_AT_ONCE], waiting[_READS_AT_ONCE:]
            contents = await asyncio.gather(*(self._read(f"{_MANIFEST}/{place}") for place in chunk))
            for place, content in zip(chunk, contents, strict=True):
                yield place, _unpack(content, LetterRecord)

    async def letters(self, place: str) -> list[ArchivedLetter]:
        """The letters of one place with their content; none where it was purged.

        Raises:
            ArchiveUnavailableError: It cannot be read.
        """
        content = await self._read(f"{_LETTERS}/{place}")
        return await asyncio.to_thread(_unpack, content, ArchivedLetter)

    async def delete(self, place: str) -> None:
        """Remove one place. The manifest goes last, so that a removal that was cut short can be found and finished.

        Raises:
            ArchiveUnavailableError: It is not known to be removed.
        """
        for folder in (_LETTERS, _MANIFEST):
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await asyncio.to_thread(obstore.delete, self._store(), f"{folder}/{place}")
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise self._unavailable(error) from error

    async def mark_replayed(self, replays: Sequence[Replay]) -> None:
        """Note durably that letters were sent to their legs again.

        Raises:
            ArchiveUnavailableError: The marks are not known to be written.
        """
        await self._write(f"{_REPLAYS}/{self._new_place()}", _pack(replays))

    async def replays(self) -> list[Replay]:
        """All marks of replays.

        Raises:
            ArchiveUnavailableError: They cannot be read.
        """
        replays: list[Replay] = []
        waiting = await self._list(_REPLAYS, None)
        while waiting:
            chunk, waiting = waiting[:_READS_AT_ONCE], waiting[_READS_AT_ONCE:]
            for content in await asyncio.gather(*(self._read(f"{_REPLAYS}/{place}") for place in chunk)):
                replays.extend(_unpack(content, Replay))
        return replays

    def _new_place(self, folder: str = "") -> str:
        now = self._now().astimezone(UTC)
        return f"date={now:%Y-%m-%d}/{folder}{now:%Y%m%dT%H%M%S.%fZ}-{self._unique()}.ndjson.zst"

    def _store(self) -> ObjectStore:
        """The store, made when first used: a folder that is not there yet is no reason not to start."""
        if self._opened is None:
            client = {name: value for name, value in self._options.items() if name in _CLIENT_OPTIONS}
            config = {name: value for name, value in self._options.items() if name not in _CLIENT_OPTIONS}
            if obstore.parse_scheme(self.url) == "local":
                self._opened = from_url(self.url, mkdir=True)
            elif obstore.parse_scheme(self.url) == "memory":
                self._opened = from_url(self.url)
            else:
                # The caller repeats what failed, and says so: the store itself need not try for minutes.
                self._opened = from_url(
                    self.url,
                    config=cast("Any", config) or None,
                    client_options=cast("Any", client) or None,
                    retry_config={"max_retries": 2},
                )
        return self._opened

    async def _write(self, path: str, content: bytes) -> None:
        """Write an object and read it back."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                store = self._store()
                await asyncio.to_thread(obstore.put, store, path, content)
                if isinstance(store, LocalStore):
                    await asyncio.to_thread(_flush_to_disk, Path(str(store.prefix)), path)
                held = await asyncio.to_thread(_get, store, path)
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error
        if held != content:
            raise ArchiveUnavailableError(f"{self.url}: {path} reads back other bytes than were written")

    async def _read(self, path: str) -> bytes:
        """An object's content; empty where it does not exist."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await asyncio.to_thread(_get, self._store(), path)
        except FileNotFoundError:
            return b""
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error

    async def _list(self, folder: str, since: date | None) -> list[str]:
        offset = None if since is None else f"{folder}/date={since:%Y-%m-%d}"
        try:
            places = await asyncio.to_thread(_list_paths, self._store(), folder, offset)
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error
        places = [place.removeprefix(f"{folder}/") for place in places]
        # What others have put there is not read.
        return sorted((place for place in places if _PLACE.fullmatch(place)), key=_written)

    def _unavailable(self, error: Exception) -> ArchiveUnavailableError:
        # The store's messages go on with a dump of its internals.
        problem = str(error).partition("\n\nDebug source")[0].strip() or "no answer in time"
        return ArchiveUnavailableError(f"{self.url}: {problem:.500}")


# obstore's own asynchronous calls hand their results over from threads of theirs; one that does so while the
# interpreter ends aborts the process (CPython 3.13). Its synchronous calls, in our threads, never touch Python.
def _get(store: ObjectStore, path: str) -> bytes:
    return obstore.get(store, path).bytes().to_bytes()


def _list_paths(store: ObjectStore, folder: str, offset: str | None) -> list[str]:
    return [entry["path"] for page in obstore.list(store, prefix=folder, offset=offset) for entry in page]


def written_at(place: str) -> datetime:
    """When a place was written."""
    return datetime.strptime(_written(place).partition("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)


def _written(place: str) -> str:
    return place.rpartition("/")[2]


def _is_of(place: str, entity_types: Collection[str]) -> bool:
    return not entity_types or place.split("/")[1].removeprefix("type=") in entity_types


def _as_text(data: bytes) -> tuple[str | None, str | None]:
    """The bytes as text, or where that would change them as base64."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return None, b64encode(data).decode()


class _EventHead(msgspec.Struct):
    event_id: str
    timestamp: Aware


_head_decoder = msgspec.json.Decoder(_EventHead)


def _event_head(data: bytes) -> _EventHead | None:
    try:
        return _head_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


_Row = TypeVar("_Row", bound=msgspec.Struct)


def _pack(rows: Sequence[msgspec.Struct]) -> bytes:
    # The checksum lets a reader notice damage that came after the writing.
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(msgspec.json.Encoder().encode_lines(rows))


def _unpack(content: bytes, kind: type[_Row]) -> list[_Row]:
    if not content:
        return []
    try:
        if not 0 <= zstandard.frame_content_size(content) <= _MAX_UNPACKED_BYTES:
            raise zstandard.ZstdError("its frame does not say a size, or one too large")  # noqa: TRY301
        return msgspec.json.Decoder(kind).decode_lines(zstandard.ZstdDecompressor().decompress(content))
    except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArchiveUnavailableError(f"an object of the archive is damaged: {error}") from error


def _flush_to_disk(root: Path, path: str) -> None:
    """Flush a file and the folders down to it, so that it is there after a power cut."""
    file = root / path
    for place in (file, *file.parents):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if place == root:
            return
