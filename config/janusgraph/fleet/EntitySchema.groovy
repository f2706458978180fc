package fleet

import groovy.transform.CompileStatic
import java.time.temporal.ChronoUnit
import org.apache.tinkerpop.gremlin.structure.Vertex
import org.janusgraph.core.Cardinality
import org.janusgraph.core.JanusGraph
import org.janusgraph.core.Multiplicity
import org.janusgraph.core.PropertyKey
import org.janusgraph.core.schema.JanusGraphIndex
import org.janusgraph.core.schema.JanusGraphManagement
import org.janusgraph.core.schema.SchemaAction
import org.janusgraph.core.schema.SchemaStatus
import org.janusgraph.graphdb.database.StandardJanusGraph
import org.janusgraph.graphdb.database.management.ManagementSystem

/** Makes what the model declares and the graph lacks. Running it again changes nothing. */
@CompileStatic
class EntitySchema {
    private static final long REGISTRATION_SECONDS = 60

    private final JanusGraph graph
    private final EntityModel model
    private boolean changed = false

    EntitySchema(JanusGraph graph, EntityModel model) {
        this.graph = graph
        this.model = model
    }

    /** Throws IllegalStateException when the graph holds something that cannot be changed into what is declared. */
    void ensure() {
        graph.tx().rollback()
        if (!((StandardJanusGraph) graph).backend.storeFeatures.isDistributed()) closeOtherInstances()
        JanusGraphManagement management = graph.openManagement()
        try {
            model.properties.each { String name, Class<?> type -> ensureProperty(management, name, type) }
            model.vertexLabels.each { String label -> ensureVertexLabel(management, label) }
            model.edgeLabels.each { String label -> ensureEdgeLabel(management, label) }
            model.unique.each { String name -> ensureIndex(management, name, true) }
            model.lookups.each { String name -> ensureIndex(management, name, false) }
            if (changed) management.commit() else management.rollback()
        } finally {
            if (management.isOpen()) management.rollback()
        }
        (model.unique + model.lookups).each { String name -> enableIndex(name) }
    }

    /** Of embedded storage this server is the only user: others that are on record were killed, and would be waited for. */
    private void closeOtherInstances() {
        JanusGraphManagement management = graph.openManagement()
        for (String instance : management.openInstances) {
            if (!instance.endsWith('(current)')) management.forceCloseInstance(instance)
        }
        management.commit()
    }

    private void ensureProperty(JanusGraphManagement management, String name, Class<?> type) {
        PropertyKey key = management.getPropertyKey(name)
        if (key == null) {
            management.makePropertyKey(name).dataType(type).cardinality(Cardinality.SINGLE).make()
            changed = true
        } else if (key.dataType() != type || key.cardinality() != Cardinality.SINGLE) {
            refuse("property '${name}' is declared as one ${type.simpleName}",
                "${key.cardinality()} of ${key.dataType().simpleName}", 'the type of a property')
        }
    }

    private void ensureVertexLabel(JanusGraphManagement management, String label) {
        if (management.containsVertexLabel(label)) return
        management.makeVertexLabel(label).make()
        changed = true
    }

    private void ensureEdgeLabel(JanusGraphManagement management, String label) {
        if (!management.containsEdgeLabel(label)) {
            management.makeEdgeLabel(label).multiplicity(Multiplicity.MULTI).make()
            changed = true
        } else if (management.getEdgeLabel(label).multiplicity() != Multiplicity.MULTI) {
            refuse("edge label '${label}' is declared as MULTI",
                "${management.getEdgeLabel(label).multiplicity()}", 'the multiplicity of an edge label')
        }
    }

    private void ensureIndex(JanusGraphManagement management, String property, boolean unique) {
        JanusGraphIndex index = management.getGraphIndex(indexName(property))
        if (index == null) {
            def builder = management.buildIndex(indexName(property), Vertex).addKey(management.getPropertyKey(property))
            (unique ? builder.unique() : builder).buildCompositeIndex()
            changed = true
        } else if (index.isUnique() != unique || index.fieldKeys*.name() != [property]) {
            refuse("index '${indexName(property)}' is declared as ${unique ? 'unique' : 'not unique'} on '${property}'",
                "${index.isUnique() ? 'unique' : 'not unique'} on ${index.fieldKeys*.name()}", 'an index')
        }
    }

    /** An index on a property that is new as well is enabled at once; one on older data has to be built. */
    private void enableIndex(String property) {
        String name = indexName(property)
        SchemaStatus status = indexStatus(name)
        if (status == SchemaStatus.ENABLED) return
        if (status == SchemaStatus.INSTALLED) {
            boolean known = ManagementSystem.awaitGraphIndexStatus(graph, name)
                .status(SchemaStatus.REGISTERED, SchemaStatus.ENABLED).timeout(REGISTRATION_SECONDS, ChronoUnit.SECONDS)
                .call().succeeded
            if (!known) throw new IllegalStateException(notRegistered(name))
        }
        JanusGraphManagement management = graph.openManagement()
        management.updateIndex(management.getGraphIndex(name), SchemaAction.REINDEX).get()
        management.commit()
        status = indexStatus(name)
        if (status != SchemaStatus.ENABLED) throw new IllegalStateException("index '${name}' is ${status}, expected ENABLED")
    }

    private String notRegistered(String index) {
        JanusGraphManagement management = graph.openManagement()
        try {
            return "index '${index}' cannot be built: not all servers of this graph have taken note of it within " +
                "${REGISTRATION_SECONDS} s. The graph knows of ${management.openInstances.toSorted().join(', ')}. One that is " +
                'gone for good has to be closed first, by management.forceCloseInstance(name).'
        } finally {
            management.rollback()
        }
    }

    private SchemaStatus indexStatus(String name) {
        JanusGraphManagement management = graph.openManagement()
        try {
            JanusGraphIndex index = management.getGraphIndex(name)
            return index.getIndexStatus(index.fieldKeys[0])
        } finally {
            management.rollback()
        }
    }

    private static String indexName(String property) { "by_${property}".toString() }

    private static void refuse(String declared, String held, String what) {
        throw new IllegalStateException(
            "${declared}, but this graph holds it as ${held}. JanusGraph cannot change ${what}: " +
            'declare it under another name, or rebuild the graph from the topics.')
    }
}
