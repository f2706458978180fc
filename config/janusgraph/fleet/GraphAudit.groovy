package fleet

import com.fasterxml.jackson.databind.ObjectMapper
import groovy.transform.CompileStatic
import org.apache.tinkerpop.gremlin.structure.Direction
import org.apache.tinkerpop.gremlin.structure.Property
import org.apache.tinkerpop.gremlin.structure.VertexProperty
import org.janusgraph.core.JanusGraph
import org.janusgraph.core.JanusGraphEdge
import org.janusgraph.core.JanusGraphTransaction
import org.janusgraph.core.JanusGraphVertex
import org.janusgraph.core.JanusGraphVertexProperty
import org.janusgraph.graphdb.database.StandardJanusGraph
import org.janusgraph.graphdb.transaction.StandardJanusGraphTx

/**
 * Reads what the graph holds, for the audit: all of it, a page a request, by the storage's own order and by no index, so
 * that a second vertex of an entity shows as well.
 *
 * A row is [vertex id, entity key or null, version or null, content hash or null, whether deleted, whether an edge leads
 * to it, state, edges]. Whether an edge leads to it is looked up where there is no version alone. Unless a request asks for
 * the "whole", the last two are null: state = {property: value, …} and its own edges = [[label, target's entity key,
 * {property: value, …}], …], with a Date in milliseconds since 1970.
 */
@CompileStatic
class GraphAudit {
    private static final Set<String> IDENTITY = ['entity_key', 'entity_id', 'entity_type'] as Set<String>

    private final JanusGraph graph
    private final EntityWriter writer
    private final VertexKeys keys
    private final ObjectMapper json = new ObjectMapper()

    GraphAudit(JanusGraph graph, EntityWriter writer) {
        this.graph = graph
        this.writer = writer
        this.keys = VertexKeys.of((StandardJanusGraph) graph)
    }

    /**
     * The rows of {"after": where the last page ended, or null, "limit": how many keys of the storage to look at, "whole":
     * true or false}, as {"rows": [row, …], "after": where it ended, or null after the last page}.
     *
     * What is being written meanwhile may be seen in part: whoever finds something wrong looks again with `look`.
     */
    String page(String query) {
        Map<String, Object> asked = json.readValue(query, Map)
        StandardJanusGraphTx tx = beginScan()
        try {
            VertexKeys.Page page = keys.page(tx, (String) asked.get('after'), ((Number) asked.get('limit')).intValue())
            List<JanusGraphVertex> vertices = page.ids.isEmpty() ? [] : tx.getVertices(page.ids.toArray()).toList()
            return json.writeValueAsString([rows: rowsOf(tx, vertices, asked.get('whole') == true), after: page.after])
        } finally {
            tx.rollback()
        }
    }

    /** The rows of {"keys": [entity key, …], "ids": [vertex id, …], "whole": true or false}, as {"rows": [row, …]}. */
    String look(String query) {
        Map<String, Object> asked = json.readValue(query, Map)
        JanusGraphTransaction tx = writer.begin()
        try {
            Set<JanusGraphVertex> vertices = new LinkedHashSet<>()
            List<String> wanted = (List<String>) asked.get('keys')
            // Asked for the vertices of no ids, JanusGraph gives all.
            if (!wanted.isEmpty()) vertices.addAll(writer.find(tx, wanted).values())
            for (String id : (List<String>) asked.get('ids')) vertices.add((JanusGraphVertex) tx.getVertex(keys.idOf(id)))
            vertices.remove(null)
            return json.writeValueAsString([rows: rowsOf(tx, new ArrayList<>(vertices), asked.get('whole') == true)])
        } finally {
            tx.rollback()
        }
    }

    /**
     * Removes those of {"keys": [entity key, …]} that are no more than an identity, and that no edge leads to; gives how
     * many those were.
     */
    int removeStubs(String request) {
        Set<String> stubs = new LinkedHashSet<>((List<String>) json.readValue(request, Map).get('keys'))
        List<String> ids = stubs.collect { String key -> key.substring(key.indexOf(':') + 1) }
        return writer.locked(stubs, ids) { WriteLeases.Lease lease -> removeUnlessUsed(stubs, lease) }
    }

    private int removeUnlessUsed(Set<String> stubs, WriteLeases.Lease lease) {
        JanusGraphTransaction tx = writer.begin()
        try {
            int removed = 0
            for (JanusGraphVertex vertex : writer.find(tx, stubs).values()) {
                if (vertex.property('version').isPresent() || isPointedTo(vertex)) continue
                vertex.remove()
                removed++
            }
            lease.confirm()
            tx.commit()
            return removed
        } finally {
            if (tx.isOpen()) tx.rollback()
        }
    }

    /** A transaction that holds no locks of embedded storage, so that neither it nor a writer waits for the other. */
    private StandardJanusGraphTx beginScan() {
        def builder = graph.buildTransaction().readOnly().checkExternalVertexExistence(false).checkInternalVertexExistence(false)
        if (!keys.shared) builder = builder.customOption('storage.berkeleyje.isolation-level', 'READ_UNCOMMITTED')
        return (StandardJanusGraphTx) builder.start()
    }

    private static List<List<Object>> rowsOf(JanusGraphTransaction tx, List<JanusGraphVertex> vertices, boolean whole) {
        if (vertices.isEmpty()) return []
        Map<JanusGraphVertex, Iterable<JanusGraphVertexProperty>> held = tx.multiQuery(vertices).properties()
        List<List<Object>> rows = new ArrayList<>(vertices.size())
        for (Map.Entry<JanusGraphVertex, Iterable<JanusGraphVertexProperty>> entry : held.entrySet()) {
            Map<String, Object> values = new HashMap<>(32)
            for (VertexProperty property : (Iterable<VertexProperty>) (Object) entry.value) values.put(property.key(), plain(property.value()))
            JanusGraphVertex vertex = entry.key
            // What was removed since its key was read has nothing.
            if (values.isEmpty() && !isPointedTo(vertex)) continue
            boolean referred = values.get('version') == null && isPointedTo(vertex)
            rows.add([
                vertex.id().toString(), values.get('entity_key'), values.get('version'), values.get('content_hash'),
                values.get('deleted') == true, referred, whole ? stateOf(values) : null, whole ? edgesOf(vertex) : null
            ] as List<Object>)
        }
        return rows
    }

    private static Map<String, Object> stateOf(Map<String, Object> values) {
        Map<String, Object> state = new HashMap<>(values)
        state.keySet().removeAll(IDENTITY)
        return state
    }

    private static List<List<Object>> edgesOf(JanusGraphVertex vertex) {
        List<List<Object>> edges = []
        for (Object found : vertex.query().direction(Direction.OUT).edges()) {
            JanusGraphEdge edge = (JanusGraphEdge) found
            Map<String, Object> values = new HashMap<>()
            Iterator<Property<Object>> properties = edge.properties()
            while (properties.hasNext()) {
                Property<Object> property = properties.next()
                values.put(property.key(), plain(property.value()))
            }
            Property<Object> target = edge.inVertex().property('entity_key')
            edges.add([edge.label(), target.isPresent() ? target.value() : null, values] as List<Object>)
        }
        return edges
    }

    private static Object plain(Object value) { value instanceof Date ? ((Date) value).time : value }

    private static boolean isPointedTo(JanusGraphVertex vertex) {
        return !vertex.query().direction(Direction.IN).limit(1).edges().isEmpty()
    }
}
