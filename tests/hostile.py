"""Hostile input for every entrance: bytes that are no event or a strange one, texts, ids and packed bombs.

All of it is made by code, so that megabytes of it need no file. The tests of each entrance say what becomes of it.
"""

from __future__ import annotations

import gzip
import json

import zstandard

from banking.streaming.entities import ENTITY_MODELS, Kind
from banking.streaming.events import MAX_EVENT_VALUES, create_event

TEXTS = {
    "gremlin": "'); g.V().drop().iterate(); //",
    "groovy": '${"touch /tmp/owned".execute()} \'\'\' + System.exit(1) + """',
    "query_dsl": '"}},"query":{"match_all":{}},"script":{"source":"ctx.op=\'delete\'"}}',
    "bulk_action": '\n{"delete":{"_index":"banking-persons-v1","_id":"hostile-good-1"}}\n{"index":{}}\n',
    "lucene": "*:* OR _exists_:x AND NOT (a:[* TO *]) /.*/ \\",
    "sql": "'; DROP TABLE persons; --",
    "shell": "$(touch /tmp/owned) `id` ; rm -rf / | tee && \\\n",
    "path": "../../../../etc/passwd\\..\\..\\con.txt",
    "jndi": "${jndi:ldap://127.0.0.1:1/a}",
    "markup": "[bold red]x[/] [link=file:///etc/passwd]y[/link] [/unopened]",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>",
    "terminal": "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\b\x9b2J",
    "log_line": 'x\n{"event":"stopped","level":"info"}\r\n',
    "metric": 'x"} 1\nstreaming_events_published_total{source="',
    "nul": "a\x00b\x00",
    "bidi": "\u202eevil\u2066\u200b\ufeff",
    "formula": "=cmd|'/C calc'!A0",
    "unicode": "\uff21\u0301\U0010ffff\ufffe\ue000\u2028\u2029",
    "empty": "",
    "spaces": " \t \u00a0 ",
    "long": "wörd " * 8_000,
    "unbroken": "x" * 40_000,
}
"""Texts that some language, store, terminal or log might take for more than a text."""

IDS = (
    "'",
    '"',
    "\\",
    "..",
    "../../etc/passwd",
    "/",
    "a/b?c#d&e=f",
    "%00%2e%2e%2f",
    "*",
    "_all",
    "-",
    "--force",
    "~a~b",
    "a:b:c",
    "person:x",
    "');g.V().drop()//",
    "${7*7}",
    "$(id)`id`;id|id",
    '{"match_all":{}}',
    "[bold]",
    "<script>",
    "null",
    "0",
    "x" * 256,
    "".join(map(chr, range(0x21, 0x7F))),
)
"""Ids that are valid, with every character that an id may have."""

_KINDS_OF_TEXT = (Kind.KEYWORD, Kind.TEXT)


def texts_of(entity_type):
    """The payload's fields that hold any text."""
    return [field.name for field in ENTITY_MODELS[entity_type].fields if field.kind in _KINDS_OF_TEXT]


def event_with(entity_type, entity_id, text, *, target_id=None, **options):
    """A valid event that says a text wherever a text may stand, and that refers to an awkward id where one is given."""
    payload = dict.fromkeys(texts_of(entity_type), text)
    payload |= {"undeclared": {text or "x": [text, {text: text}]}, text: text}
    if target_id is not None:
        for reference in ENTITY_MODELS[entity_type].references:
            if not reference.many:
                payload[reference.field] = target_id
                if reference.type_field is not None:
                    payload[reference.type_field] = reference.targets[0].value
    for reference in ENTITY_MODELS[entity_type].references:
        if reference.many or target_id is None:
            payload.pop(reference.field, None)
    return create_event(
        entity_type,
        entity_id,
        payload,
        source=text[:256] or "hostile",
        event_id=f"{text[:200]}-{entity_id}"[:256],
        metadata={text: text},
        text_for_embedding=text,
        **options,
    )


def _with(**fields):
    """The bytes of an event whose fields are these pieces of JSON; None leaves one out."""
    whole = {
        "entity_id": b'"hostile-raw"',
        "entity_type": b'"account"',
        "event_type": b'"create"',
        "payload": b"{}",
        "version": b"1",
        "event_id": b'"e-1"',
        "timestamp": b'"2026-01-01T00:00:00Z"',
        "source": b'"hostile"',
    } | fields
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in whole.items() if value) + b"}"


def _holding(value):
    return _with(payload=b'{"x":%s}' % value)


def _newer(value):
    return _with(schema_version=b'"1.9"', unknown=value)


VALID = _with()

NO_EVENTS = {
    "empty": b"",
    "white_space": b" \r\n\t",
    "truncated": VALID[: len(VALID) // 2],
    "one_byte_short": VALID[:-1],
    "one_byte_long": VALID + b"}",
    "two_events": VALID + VALID,
    "byte_order_mark": b"\xef\xbb\xbf" + VALID,
    "utf_16": VALID.decode().encode("utf-16"),
    "utf_32": VALID.decode().encode("utf-32"),
    "latin_1": _holding('"Zürich"'.encode("latin-1")),
    "gzip": gzip.compress(VALID, mtime=0),
    "zstd": zstandard.compress(VALID),
    "nul_bytes": b"\x00" * 1000,
    "not_utf_8": b"\xff\xfe\xfd" * 100,
    "csv": b"entity_id,entity_type\np-1,person\n",
    "array": b"[%s]" % VALID,
    "scalar": b"null",
    "deep_arrays": b"[" * 100_000,
    "deep_objects": b'{"a":' * 100_000,
    "deep_payload": _holding(b"[" * 64 + b"]" * 64),
    "deeper_payload": _holding(b"[" * 5000 + b"]" * 5000),
    "many_values": _holding(b"[" + b"{}," * MAX_EVENT_VALUES + b"{}]"),
    "many_members": _holding(b"{" + b",".join(b'"%x":0' % number for number in range(MAX_EVENT_VALUES + 1)) + b"}"),
    "not_a_number": _holding(b"NaN"),
    "infinity": _holding(b"-Infinity"),
    "number_out_of_range": _holding(b"1e400"),
    "integer_out_of_range": _holding(b"9" * 5000),
    "leading_zero": _holding(b"01"),
    "hexadecimal": _holding(b"0xff"),
    "lone_surrogate": _holding(b'"\\ud800"'),
    "swapped_surrogates": _holding(b'"\\udc00\\ud800"'),
    "encoded_surrogate": _holding(b'"\xed\xa0\x80"'),
    "overlong_utf_8": _holding(b'"\xc0\x80"'),
    "raw_nul": _holding(b'"\x00"'),
    "raw_line_break": _holding(b'"a\nb"'),
    "bad_escape": _holding(b'"\\x41"'),
    "single_quotes": VALID.replace(b'"', b"'"),
    "comment": VALID + b"// comment",
    "trailing_comma": VALID[:-1] + b",}",
    "id_lacking": _with(entity_id=None),
    "id_number": _with(entity_id=b"7"),
    "id_with_line_break": _with(entity_id=b'"a\\n"'),
    "id_of_257": _with(entity_id=b'"%s"' % (b"x" * 257)),
    "type_unknown": _with(entity_type=b'"\'; DROP TABLE persons"'),
    "event_type_unknown": _with(event_type=b'"patch"'),
    "payload_null": _with(payload=b"null"),
    "payload_array": _with(payload=b"[]"),
    "delete_with_payload": _with(event_type=b'"delete"', payload=b'{"x":1}'),
    "version_negative": _with(version=b"-1"),
    "version_too_large": _with(version=b"9223372036854775808"),
    "version_huge": _with(version=b"1e999999999999"),
    "version_fraction": _with(version=b"1.5"),
    "version_text": _with(version=b'"1"'),
    "version_true": _with(version=b"true"),
    "time_without_zone": _with(timestamp=b'"2026-01-01T00:00:00"'),
    "time_of_30_february": _with(timestamp=b'"2026-02-30T00:00:00Z"'),
    "time_of_year_10000": _with(timestamp=b'"10000-01-01T00:00:00Z"'),
    "time_of_far_offset": _with(timestamp=b'"2026-01-01T00:00:00+23:59"'),
    "event_id_empty": _with(event_id=b'""'),
    "source_too_long": _with(source=b'"%s"' % (b"s" * 257)),
    "other_major": _with(schema_version=b'"2.0"'),
    "schema_of_text": _with(schema_version=b'"1.x"'),
    "newer_minor_out_of_range": _newer(b"1e400"),
    "newer_minor_not_utf_8": _newer(b'"\xff"'),
    "newer_minor_too_large": _newer(b"9" * 5000),
    "newer_minor_too_deep": _newer(b"[" * 64 + b"]" * 64),
    "newer_minor_many_values": _newer(b"[" + b"0," * MAX_EVENT_VALUES + b"0]"),
}
"""Bytes that are no event, by what is wrong with them."""

STRANGE_EVENTS = {
    "duplicate_keys": b'{"entity_id":"other","version":9,' + VALID[1:],
    "duplicate_payload_keys": _holding(b'{"a":1,"a":2}'),
    "escaped_nul": _holding(b'"\\u0000"'),
    "escaped_everything": VALID.replace(b"hostile-raw", b"".join(b"\\u%04x" % byte for byte in b"hostile-raw")),
    "empty_keys": _holding(b'{"":{"":{"":""}}}'),
    "dotted_keys": _holding(b'{"a.b":1,"a":{"b":2},".":3,"a..b":4}'),
    "keys_of_prototypes": _holding(b'{"__proto__":{"x":1},"constructor":1,"$ref":"#","@class":"java.lang.Runtime"}'),
    "negative_zero": _holding(b"-0.0"),
    "integer_of_400_digits": _holding(b"1" + b"0" * 400),
    "fraction_of_900_digits": _holding(b"0." + b"3" * 900),
    "smallest_number": _holding(b"5e-324"),
    "underflow": _holding(b"1e-999999"),
    "deepest": _holding(b"[" * 63 + b"]" * 63),
    "white_space_between": VALID.replace(b",", b"\r\n\t ,"),
    "large_text": _holding(b'"%s"' % (b"close to 5 MB " * 350_000)),
    "most_values": _holding(b"[" + b"0 , " * (MAX_EVENT_VALUES - 20) + b"{ } ]"),
    "time_of_largest_offset": _with(timestamp=b'"2026-01-01T00:00:00-18:00"'),
    "time_of_year_1": _with(timestamp=b'"0001-01-01T00:00:00+18:00"'),
    "time_of_year_9999": _with(timestamp=b'"9999-12-31T23:59:59.999999-18:00"'),
    "largest_version_of_a_counter": _with(version=b"999999999999999"),
    "newer_minor": _newer(b'{"a":[1,2,{"b":null}]}'),
}
"""Bytes that are an event after all."""

WRONG_PAYLOADS = {
    "text_for_money": b'{"balance":"1,50"}',
    "number_for_money": b'{"balance":0.1}',
    "huge_money": b'{"balance":%s}' % (b"9" * 4000),
    "number_for_text": b'{"iban":5}',
    "object_for_reference": b'{"owner_id":{"$ne":1},"owner_type":"person"}',
    "unknown_target": b'{"owner_id":"x","owner_type":"transaction"}',
    "path_as_reference": b'{"owner_id":"../ x","owner_type":"person"}',
    "object_for_list": b'{"joint_owners":{"0":{"owner_id":"x"}}}',
}
"""Payloads of accounts that break what is declared: an event whose letter names the field."""


def with_payload(payload):
    """The bytes of an event with this payload, which is a piece of JSON."""
    return _with(payload=payload)


def renamed(data, entity_id):
    """The same bytes with another entity's id, where they name one."""
    return data.replace(b"hostile-raw", json.dumps(entity_id).encode()[1:-1])


def zeros_packed(pack, megabytes):
    """A bomb: that many megabytes of one byte, packed by `gzip` or `zstd`."""
    piece = b"0" * 1_000_000
    if pack == "gzip":
        return gzip.compress(piece * megabytes, compresslevel=1, mtime=0)
    packer = zstandard.ZstdCompressor().compressobj()
    return b"".join([packer.compress(piece) for _ in range(megabytes)]) + packer.flush()
