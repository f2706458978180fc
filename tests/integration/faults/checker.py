"""Whether both stores hold what was promised, judged by the driver's own memory of what it published. Pure.

An entity may be held as its newest acknowledged event says, or as a newer one whose receipt never came: a broker may
have stored that one. Whatever else is found breaks a promise.
"""

from __future__ import annotations

from tests.replay import document_of, vertex_of


def graph_violations(history, vertices, second):
    """What is wrong in the graph, in words.

    Args:
        history: What was published.
        vertices: Properties and own edges by key, as `graph_as_it_is` gives them.
        second: How many vertices a full scan found, by key.
    """
    found = [f"graph: {key} has {number} vertices" for key, number in second.items() if number > 1]
    for (entity_type, entity_id), possible in history.possible.items():
        key = f"{entity_type.value}:{entity_id}"
        properties, edges = vertices.get(key, ({}, None))
        event, problem = _held(history, (entity_type, entity_id), possible, properties.get("version"))
        if event is not None:
            wanted, wanted_edges = vertex_of(event)
            problem = _difference(event, wanted, properties) or (
                f"edges differ at {event.version}: {sorted(edges - wanted_edges)} too many, "
                f"{sorted(wanted_edges - edges)} missing"
                if edges != wanted_edges
                else None
            )
        if problem:
            found.append(f"graph: {key} {problem}")
    return found


def document_violations(history, documents):
    """What is wrong in OpenSearch, in words.

    Args:
        history: What was published.
        documents: Version and content without the vector by entity, None where there is no document.
    """
    found = []
    for entity, possible in history.possible.items():
        version, content = documents.get(entity) or (None, {})
        event, problem = _held(history, entity, possible, version)
        if event is not None:
            problem = _difference(event, document_of(event), content)
        if problem:
            found.append(f"vector: {entity[0].value}:{entity[1]} {problem}")
    return found


def _held(history, entity, possible, version):
    """The event that a store holds, or what is wrong with its version."""
    acknowledged = history.acknowledged.get(entity)
    if version is None:
        # Where nothing was acknowledged, there may be nothing.
        return None, None if acknowledged is None else f"is lost: {acknowledged} was acknowledged"
    if version in possible:
        return possible[version], None
    if acknowledged is not None and version < acknowledged:
        return None, f"is at {version}: {acknowledged} was acknowledged"
    return None, f"is at {version}, which nobody published"


def _difference(event, wanted, content):
    if content == wanted:
        return None
    if content.get("deleted", False) is not wanted.get("deleted", False):
        return f"is {'deleted' if content.get('deleted') else 'alive'} at {event.version}, published was the contrary"
    names = sorted(name for name in content.keys() | wanted.keys() if content.get(name) != wanted.get(name))
    return f"differs at {event.version} in {', '.join(names)}"
