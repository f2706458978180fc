package fleet

import com.fasterxml.jackson.databind.ObjectMapper
import com.google.common.util.concurrent.Striped
import groovy.transform.CompileStatic
import java.util.concurrent.TimeUnit
import java.util.concurrent.locks.Lock
import java.util.function.Function
import org.apache.tinkerpop.gremlin.structure.Direction
import org.apache.tinkerpop.gremlin.structure.Property
import org.apache.tinkerpop.gremlin.structure.T
import org.apache.tinkerpop.gremlin.structure.VertexProperty
import org.janusgraph.core.JanusGraph
import org.janusgraph.core.JanusGraphEdge
import org.janusgraph.core.JanusGraphTransaction
import org.janusgraph.core.JanusGraphVertex
import org.janusgraph.core.JanusGraphVertexProperty
import org.janusgraph.graphdb.database.StandardJanusGraph

/**
 * Writes batches of entities, one transaction a batch.
 *
 * A batch is one JSON text, {"model": fingerprint, "rows": [row, …]}, with row = [type, id, version, state, edges, repair],
 * state = {property: value, …} and edges = [[label, target type, target id, {property: value, …}], …]; a Date is in
 * milliseconds since 1970. A row is the whole state of its entity: properties and own edges that it does not name go. It is
 * written where the graph holds an older version, and a repair also where it holds the same one.
 * The answer is {"model": fingerprint, "outcomes": [outcome, …]} with one outcome a row, in order: "applied", "stale",
 * or ["invalid", property, problem]. Under another fingerprint nothing is written and outcomes is null.
 *
 * JanusGraph's unique index does not keep two transactions from making the same vertex, and the version guard is a read
 * followed by a write. So every entity of a batch, endpoints of edges included, is locked until the commit. This holds
 * for all writes of this server that come through this class.
 *
 * Where servers share a storage, each entity is written by the one that holds the lease on it, and a vertex's id is its
 * entity's key, so that two servers that need the same endpoint make the same vertex. An endpoint that has not arrived
 * is existence and identity alone, equal whoever writes it: no version, and nothing that its own event had to remove.
 */
@CompileStatic
class EntityWriter {
    private static final Set<String> IDENTITY = ['entity_key', 'entity_id', 'entity_type'] as Set<String>
    private static final int STRIPES = 1 << 20
    private static final long LOCK_SECONDS = 20
    /** A key of Cassandra has 65,535 bytes, one of these characters up to three. */
    private static final int MAX_INDEXED_CHARACTERS = 20_000

    private final JanusGraph graph
    private final EntityModel model
    private final String[] edgeLabels
    private final Striped<Lock> locks = Striped.lazyWeakLock(STRIPES)
    private final ObjectMapper json = new ObjectMapper()
    private final boolean keysAreIds
    private final WriteLeases leases

    EntityWriter(JanusGraph graph, EntityModel model, WriteLeases leases) {
        this.graph = graph
        this.model = model
        this.leases = leases
        this.edgeLabels = model.edgeLabels as String[]
        this.keysAreIds = ((StandardJanusGraph) graph).configuration.allowVertexIdSetting()
    }

    /** Looks for a vertex, as every batch does; returns the model's fingerprint. */
    String check() {
        JanusGraphTransaction tx = begin()
        try {
            find(tx, ['check:'])
        } finally {
            tx.rollback()
        }
        return model.fingerprint
    }

    String write(String batch) {
        Map<String, Object> request = json.readValue(batch, Map)
        List<Object> outcomes = null
        if (request.get('model') == model.fingerprint) {
            List<List> rows = (List<List>) request.get('rows')
            outcomes = new ArrayList<>(rows.size())
            List<EntityRow> valid = new ArrayList<>(rows.size())
            for (List row : rows) {
                try {
                    valid.add(toRow(row))
                    outcomes.add(null)
                } catch (InvalidValueException error) {
                    outcomes.add(['invalid', error.property, error.message])
                }
            }
            Iterator<String> written = writeLocked(valid).iterator()
            for (int i = 0; i < outcomes.size(); i++) if (outcomes.get(i) == null) outcomes.set(i, written.next())
        }
        return json.writeValueAsString([model: model.fingerprint, outcomes: outcomes])
    }

    private EntityRow toRow(List row) {
        EntityRow result = new EntityRow(
            type: (String) row.get(0), id: (String) row.get(1), version: ((Number) row.get(2)).longValue(),
            key: keyOf((String) row.get(0), (String) row.get(1)), state: convert((Map<String, Object>) row.get(3)),
            repair: row.get(5) == true)
        List<List> edges = (List<List>) row.get(4)
        result.edges = new ArrayList<>(edges.size())
        for (List edge : edges) {
            result.edges.add(new WantedEdge(
                label: (String) edge.get(0), targetType: (String) edge.get(1), targetId: (String) edge.get(2),
                targetKey: keyOf((String) edge.get(1), (String) edge.get(2)),
                properties: convert((Map<String, Object>) edge.get(3))))
        }
        return result
    }

    private static String keyOf(String type, String id) { type + ':' + id }

    private Map<String, Object> convert(Map<String, Object> values) {
        Map<String, Object> converted = new HashMap<>(values.size() * 2)
        for (Map.Entry<String, Object> entry : values.entrySet()) {
            converted.put(entry.key, convert(entry.key, entry.value))
        }
        return converted
    }

    private Object convert(String property, Object value) {
        Class<?> type = model.properties.get(property)
        if (type == null) throw new InvalidValueException(property, 'is no property of the model')
        if (type.isInstance(value)) {
            if (keysAreIds && type === String && model.lookups.contains(property)) checkLength(property, (String) value)
            return value
        }
        if (value instanceof Number) {
            if (type === Double) return ((Number) value).doubleValue()
            if (value instanceof Integer || value instanceof Long) {
                if (type === Long) return ((Number) value).longValue()
                if (type === Date) return new Date(((Number) value).longValue())
            }
        }
        throw new InvalidValueException(property, "expected a ${type.simpleName}, got ${value?.class?.simpleName}")
    }

    private static void checkLength(String property, String text) {
        if (text.length() <= MAX_INDEXED_CHARACTERS) return
        throw new InvalidValueException(property, String.format(
            Locale.ROOT, 'expected at most %,d characters in a looked-up property, got %,d', MAX_INDEXED_CHARACTERS, text.length()))
    }

    private List<String> writeLocked(List<EntityRow> rows) {
        if (rows.isEmpty()) return []
        Set<String> owned = new HashSet<>(), keys = new LinkedHashSet<>()
        for (EntityRow row : rows) {
            owned.add(row.id)
            keys.add(row.key)
            for (WantedEdge edge : row.edges) keys.add(edge.targetKey)
        }
        return locked(keys, owned) { WriteLeases.Lease lease -> writeInTransaction(rows, keys, lease) }
    }

    /**
     * Does some work with the right to write the entities of these ids, while no batch of this server writes those of
     * these keys or edges to them. Throws WriterBusyException, ForeignEntityException.
     */
    <T> T locked(Set<String> keys, Collection<String> ownedIds, Function<WriteLeases.Lease, T> work) {
        Deque<Lock> held = new ArrayDeque<>()
        try {
            // bulkGet sorts by stripe: all batches lock in one order, so none waits in a circle.
            for (Lock lock : locks.bulkGet(keys)) {
                if (!lock.tryLock(LOCK_SECONDS, TimeUnit.SECONDS)) {
                    throw new WriterBusyException("an entity of this batch stayed locked for ${LOCK_SECONDS} s")
                }
                held.push(lock)
            }
            return work.apply(leases.take(ownedIds))
        } finally {
            for (Lock lock : held) lock.unlock()
        }
    }

    private List<String> writeInTransaction(List<EntityRow> rows, Set<String> keys, WriteLeases.Lease lease) {
        JanusGraphTransaction tx = begin()
        try {
            Map<String, JanusGraphVertex> vertices = find(tx, keys)
            prefetch(tx, rows, vertices)
            List<String> outcomes = new ArrayList<>(rows.size())
            for (EntityRow row : rows) outcomes.add(apply(tx, row, vertices))
            lease.confirm()
            tx.commit()
            return outcomes
        } finally {
            if (tx.isOpen()) tx.rollback()
        }
    }

    /** The stripe locks do what JanusGraph's own checks of uniqueness would do at the price of a read a vertex. */
    JanusGraphTransaction begin() {
        return graph.buildTransaction().enableBatchLoading().start()
    }

    /** The vertices that exist, by their keys. */
    Map<String, JanusGraphVertex> find(JanusGraphTransaction tx, Collection<String> keys) {
        Map<String, JanusGraphVertex> found = new HashMap<>(keys.size() * 2)
        if (keysAreIds) {
            // getVertices reads nothing: whether such a vertex exists shows in a property that all have.
            Collection<JanusGraphVertex> named = (Collection<JanusGraphVertex>) tx.getVertices(keys.toArray())
            Map<JanusGraphVertex, Iterable<JanusGraphVertexProperty>> held = tx.multiQuery(named).keys('entity_key').properties()
            for (Map.Entry<JanusGraphVertex, Iterable<JanusGraphVertexProperty>> entry : held.entrySet()) {
                if (entry.value.iterator().hasNext()) found.put((String) entry.key.id(), entry.key)
            }
        } else {
            for (String key : keys) {
                Iterator<JanusGraphVertex> vertices = tx.query().has('entity_key', key).vertices().iterator()
                if (vertices.hasNext()) found.put(key, vertices.next())
            }
        }
        return found
    }

    JanusGraphVertex add(JanusGraphTransaction tx, String type, String id, String key) {
        List<Object> identity = [T.label, type, 'entity_key', key, 'entity_id', id, 'entity_type', type] as List<Object>
        if (keysAreIds) identity.addAll([T.id, key])
        return tx.addVertex(identity.toArray())
    }

    private void prefetch(JanusGraphTransaction tx, List<EntityRow> rows, Map<String, JanusGraphVertex> vertices) {
        List<JanusGraphVertex> known = new ArrayList<>()
        for (EntityRow row : rows) {
            JanusGraphVertex vertex = vertices.get(row.key)
            if (vertex != null) known.add(vertex)
        }
        if (known.isEmpty()) return
        tx.multiQuery(known).properties()
        tx.multiQuery(known).direction(Direction.OUT).labels(edgeLabels).edges()
    }

    private String apply(JanusGraphTransaction tx, EntityRow row, Map<String, JanusGraphVertex> vertices) {
        JanusGraphVertex vertex = vertices.get(row.key)
        boolean isNew = vertex == null
        if (isNew) {
            vertex = add(tx, row.type, row.id, row.key)
            vertices.put(row.key, vertex)
            setAll(vertex, row.state)
        } else {
            Property<Object> version = vertex.property('version')
            if (version.isPresent() && isAsNew((Long) version.value(), row)) return 'stale'
            replaceState(vertex, row.state)
        }
        reconcileEdges(tx, vertex, isNew, row.edges, vertices)
        return 'applied'
    }

    private static boolean isAsNew(long held, EntityRow row) {
        return held > row.version || (held == row.version && !row.repair)
    }

    private static void setAll(JanusGraphVertex vertex, Map<String, Object> values) {
        for (Map.Entry<String, Object> entry : values.entrySet()) vertex.property(entry.key, entry.value)
    }

    private static void replaceState(JanusGraphVertex vertex, Map<String, Object> state) {
        Map<String, Object> missing = new HashMap<>(state)
        List<VertexProperty> held = new ArrayList<>(32)
        Iterator<VertexProperty<Object>> properties = vertex.properties()
        while (properties.hasNext()) held.add(properties.next())
        for (VertexProperty property : held) {
            String name = property.key()
            if (IDENTITY.contains(name)) continue
            Object wanted = missing.remove(name)
            if (wanted == null) property.remove()
            else if (!wanted.equals(property.value())) vertex.property(name, wanted)
        }
        setAll(vertex, missing)
    }

    /** Makes the vertex's own edges those that are wanted: the same ones stay, others move, go or come. */
    private void reconcileEdges(
        JanusGraphTransaction tx, JanusGraphVertex vertex, boolean isNew, List<WantedEdge> wanted,
        Map<String, JanusGraphVertex> vertices) {
        List<JanusGraphEdge> held = isNew ? new ArrayList<JanusGraphEdge>() : ownEdges(vertex)
        List<WantedEdge> missing = new ArrayList<>(wanted.size())
        for (WantedEdge edge : wanted) {
            if (!takeSame(held, edge, vertices.get(edge.targetKey), true)) missing.add(edge)
        }
        for (WantedEdge edge : missing) {
            JanusGraphVertex target = vertices.get(edge.targetKey)
            if (takeSame(held, edge, target, false)) continue
            if (target == null) {
                target = add(tx, edge.targetType, edge.targetId, edge.targetKey)
                vertices.put(edge.targetKey, target)
            }
            JanusGraphEdge added = vertex.addEdge(edge.label, target)
            for (Map.Entry<String, Object> entry : edge.properties.entrySet()) added.property(entry.key, entry.value)
        }
        for (JanusGraphEdge edge : held) edge.remove()
    }

    private List<JanusGraphEdge> ownEdges(JanusGraphVertex vertex) {
        List<JanusGraphEdge> edges = new ArrayList<>()
        for (Object edge : vertex.query().direction(Direction.OUT).labels(edgeLabels).edges()) edges.add((JanusGraphEdge) edge)
        return edges
    }

    /** Takes an edge of that label and target out of `held`: one with equal properties, or any one made to have them. */
    private static boolean takeSame(
        List<JanusGraphEdge> held, WantedEdge wanted, JanusGraphVertex target, boolean equalProperties) {
        if (target == null || held.isEmpty()) return false
        for (Iterator<JanusGraphEdge> edges = held.iterator(); edges.hasNext();) {
            JanusGraphEdge edge = edges.next()
            if (!edge.label().equals(wanted.label) || !edge.inVertex().id().equals(target.id())) continue
            Map<String, Object> properties = propertiesOf(edge)
            if (!properties.equals(wanted.properties)) {
                if (equalProperties) continue
                replaceProperties(edge, properties, wanted.properties)
            }
            edges.remove()
            return true
        }
        return false
    }

    private static Map<String, Object> propertiesOf(JanusGraphEdge edge) {
        Map<String, Object> values = new HashMap<>()
        Iterator<Property<Object>> properties = edge.properties()
        while (properties.hasNext()) {
            Property<Object> property = properties.next()
            values.put(property.key(), property.value())
        }
        return values
    }

    private static void replaceProperties(JanusGraphEdge edge, Map<String, Object> held, Map<String, Object> wanted) {
        for (String name : held.keySet()) if (!wanted.containsKey(name)) edge.property(name).remove()
        for (Map.Entry<String, Object> entry : wanted.entrySet()) edge.property(entry.key, entry.value)
    }
}
