"""The OpenAPI document as one page of HTML that fetches nothing: no script, no font, no style from elsewhere."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CODE = re.compile(r"`([^`]+)`")

_STYLE = """\
:root { color-scheme: light dark; --line: #8885; --quiet: #8882; --link: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { font: 1rem/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.5rem; border-bottom: 1px solid var(--line); padding-bottom: 0.3rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, pre:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
code, pre { font: 0.88em/1.45 ui-monospace, monospace; }
code { background: var(--quiet); border-radius: 3px; padding: 0.1em 0.3em; overflow-wrap: anywhere; }
pre { background: var(--quiet); border-radius: 6px; padding: 0.8rem; overflow-x: auto; }
pre code { background: none; padding: 0; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: 0.4rem 0.8rem 0.4rem 0; text-align: left; vertical-align: top; }
td:first-child code { white-space: nowrap; }
nav ul { columns: 14rem; list-style: none; padding: 0; margin: 0.5rem 0; }
.verb { font-weight: 700; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 0.5rem; }
"""


def page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document that `producer.openapi` made."""
    info, components = document["info"], document["components"]
    operations = [
        (verb, path, operation) for path, verbs in document["paths"].items() for verb, operation in verbs.items()
    ]
    schemas = components["schemas"]
    contents = [
        *(_item(f"#{operation['operationId']}", f"{verb.upper()} {path}") for verb, path, operation in operations),
        *(_item(f"#{name}", name) for name in schemas),
    ]
    body = [
        '<a class="skip" href="#content">To the content</a>',
        f"<header><h1>{_text(info['title'])}</h1><p>Version {_text(info['version'])}. {_text(info['summary'])}</p>",
        '<p><a href="openapi.json">openapi.json</a>: the same for programs.</p></header>',
        f'<nav aria-label="Contents"><ul>{"".join(contents)}</ul></nav>',
        '<main id="content">',
        _paragraphs(info["description"]),
        *(_operation(verb, path, operation, components) for verb, path, operation in operations),
        *(_schema(name, schema) for name, schema in schemas.items()),
        "</main>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(info['title'])}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _operation(verb: str, path: str, operation: Mapping[str, Any], components: Mapping[str, Any]) -> str:
    parts = [
        f'<section><h2 id="{operation["operationId"]}"><span class="verb">{verb.upper()}</span> '
        f"<code>{_text(path)}</code></h2>",
        f"<p>{_text(operation['summary'])}.</p>",
        _paragraphs(operation.get("description", "")),
    ]
    schemes = [components["securitySchemes"][name] for entry in operation["security"] for name in entry]
    parts += [f"<p>Needs: {_marked(scheme['description'])}</p>" for scheme in schemes]
    if parameters := operation.get("parameters"):
        rows = [
            (f"<code>{_text(p['name'])}</code>", p["in"], _kind(p["schema"]), _marked(p["description"]))
            for p in parameters
        ]
        parts += ["<h3>Parameters</h3>", _table(("name", "in", "kind", "what it is"), rows)]
    if request := operation.get("requestBody"):
        parts += ["<h3>Body</h3>", _paragraphs(request["description"])]
        parts += [_content(name, content) for name, content in request["content"].items()]
    rows = [
        (f"<code>{status}</code>", _marked(answer["description"]), _headers(answer), _bodies(answer))
        for status, answer in operation["responses"].items()
    ]
    parts += ["<h3>Answers</h3>", _table(("status", "when", "headers", "body"), rows), "</section>"]
    return "\n".join(parts)


def _headers(answer: Mapping[str, Any]) -> str:
    return "<br>".join(
        f"<code>{_text(name)}</code> {_marked(header['description'])}"
        for name, header in answer.get("headers", {}).items()
    )


def _bodies(answer: Mapping[str, Any]) -> str:
    return "<br>".join(
        f"<code>{_text(name)}</code> {_kind(content['schema'])}" for name, content in answer["content"].items()
    )


def _content(name: str, content: Mapping[str, Any]) -> str:
    example = content["example"]
    written = [msgspec.json.encode(item).decode() for item in (example if isinstance(example, list) else [example])]
    code = "\n".join(written)
    return (
        f"<p><code>{_text(name)}</code>: {_kind(content['schema'])}</p>"
        f'<pre tabindex="0" aria-label="Example of {_text(name)}"><code>{_text(code)}</code></pre>'
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    parts = [f'<section><h2 id="{name}">{_text(name)}</h2>', f"<p>{_marked(schema['description'])}</p>"]
    if kinds := schema.get("anyOf"):
        parts.append(f"<ul>{''.join(f'<li>{_kind(kind)}</li>' for kind in kinds)}</ul>")
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        rows = [
            (
                f"<code>{_text(field)}</code>",
                _kind(written),
                "always" if field in required else "",
                _marked(written.get("description", "")),
            )
            for field, written in properties.items()
        ]
        parts.append(_table(("field", "kind", "there", "what it is"), rows))
    return "\n".join([*parts, "</section>"])


def _kind(schema: Mapping[str, Any]) -> str:
    """What a schema says, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{_text(name)}</a>'
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(_kind(kind) for kind in schema[word])
    if "enum" in schema:
        return " or ".join(f"<code>{_text(value)}</code>" for value in schema["enum"])
    kind = _text(schema.get("format") or schema.get("type") or "anything")
    if kind == "array":
        return f"list of {_kind(schema['items'])}"
    if "properties" in schema:
        return f"{kind} of {', '.join(f'<code>{_text(name)}</code>' for name in schema['properties'])}"
    limits = [f"{word} <code>{_text(schema[name])}</code>" for name, word in _LIMITS.items() if name in schema]
    return f"{kind} ({', '.join(limits)})" if limits else kind


_LIMITS = {
    "minimum": "from",
    "maximum": "to",
    "minLength": "length from",
    "maxLength": "length to",
    "pattern": "pattern",
    "maxProperties": "fields at most",
}


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _item(href: str, text: str) -> str:
    return f'<li><a href="{href}">{_text(text)}</a></li>'


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_marked(part)}</p>" for part in text.split("\n\n") if part)


def _marked(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", _text(text))


def _text(value: object) -> str:
    return html.escape(str(value))
