package fleet

import groovy.transform.CompileStatic
import org.janusgraph.core.JanusGraph
import org.janusgraph.diskstorage.cql.CQLStoreManager
import org.janusgraph.graphdb.database.StandardJanusGraph

/** This server's right to write some entities. Storage that is embedded has one server, which may write all. */
@CompileStatic
class WriteLeases {
    /** The leases that this graph's storage needs. */
    static WriteLeases of(JanusGraph graph) {
        StandardJanusGraph standard = (StandardJanusGraph) graph
        def storage = standard.backend.storeManager
        if (!storage.features.isDistributed()) return new WriteLeases()
        return new BucketLeases((CQLStoreManager) storage, standard.configuration.uniqueGraphId)
    }

    /** Makes what the leases are kept in, where it is missing. */
    void ensure() {}

    /** The right to write these entities, given by their ids. Throws ForeignEntityException when another server has it. */
    Lease take(Collection<String> entityIds) { new Lease() }

    static class Lease {
        /** To be called right before a commit. Throws WriterBusyException when the right may end before the commit does. */
        void confirm() {}
    }
}
