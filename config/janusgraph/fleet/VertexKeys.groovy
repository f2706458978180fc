package fleet

import com.datastax.oss.driver.api.core.ConsistencyLevel
import com.datastax.oss.driver.api.core.CqlSession
import com.datastax.oss.driver.api.core.cql.PreparedStatement
import com.datastax.oss.driver.api.core.cql.Row
import com.datastax.oss.driver.api.core.cql.SimpleStatement
import groovy.transform.CompileStatic
import org.janusgraph.diskstorage.StaticBuffer
import org.janusgraph.diskstorage.cql.CQLStoreManager
import org.janusgraph.diskstorage.keycolumnvalue.KeyIterator
import org.janusgraph.diskstorage.keycolumnvalue.KeyRangeQuery
import org.janusgraph.diskstorage.keycolumnvalue.SliceQuery
import org.janusgraph.diskstorage.util.BufferUtil
import org.janusgraph.diskstorage.util.StaticArrayBuffer
import org.janusgraph.graphdb.database.StandardJanusGraph
import org.janusgraph.graphdb.idmanagement.IDManager
import org.janusgraph.graphdb.transaction.StandardJanusGraphTx

/**
 * The ids of all vertices, a page at a time and in the order in which the storage has them, from any place on: JanusGraph
 * itself reads them from the first to the last in one go only, which takes longer than a request may.
 */
@CompileStatic
abstract class VertexKeys {
    protected final IDManager ids

    protected VertexKeys(StandardJanusGraph graph) { ids = graph.IDManager }

    static VertexKeys of(StandardJanusGraph graph) {
        def storage = graph.backend.storeManager
        return storage.features.isDistributed() ? new OfCassandra(graph, (CQLStoreManager) storage) : new OfBerkeley(graph)
    }

    /** Whether several servers read this storage. */
    abstract boolean isShared()

    /** The ids of the vertices among the next `limit` keys after that place, null for the first ones. */
    abstract Page page(StandardJanusGraphTx tx, String after, int limit)

    /** The vertex id that a row has as a text. */
    abstract Object idOf(String text)

    static class Page {
        List<Object> ids = []
        /** Where it ended; null after the last one. */
        String after
    }

    /** Keys in their own order, eight bytes each. */
    @CompileStatic
    static class OfBerkeley extends VertexKeys {
        private static final int KEY_BYTES = 8
        private static final SliceQuery ANY_COLUMN = new SliceQuery(BufferUtil.zeroBuffer(1), BufferUtil.oneBuffer(4)).setLimit(1)

        OfBerkeley(StandardJanusGraph graph) { super(graph) }

        @Override
        boolean isShared() { false }

        @Override
        Object idOf(String text) { Long.valueOf(text) }

        @Override
        Page page(StandardJanusGraphTx tx, String after, int limit) {
            StaticBuffer start = after == null ? BufferUtil.zeroBuffer(KEY_BYTES) : bufferOf(Long.parseUnsignedLong(after, 16) + 1)
            Page page = new Page()
            KeyIterator found = tx.txHandle.edgeStoreKeys(new KeyRangeQuery(start, BufferUtil.oneBuffer(KEY_BYTES), ANY_COLUMN))
            try {
                int looked = 0
                while (found.hasNext()) {
                    StaticBuffer key = found.next()
                    if (looked++ == limit) return page
                    page.after = Long.toUnsignedString(key.getLong(0), 16)
                    Object id = ids.getKeyID(key)
                    if (ids.isUserVertexId(id)) page.ids.add(id)
                }
                page.after = null
                return page
            } finally {
                found.close()
            }
        }

        private static StaticBuffer bufferOf(long key) { BufferUtil.getLongBuffer(key) }
    }

    /** Keys in the order of Cassandra's tokens. */
    @CompileStatic
    static class OfCassandra extends VertexKeys {
        private final CqlSession session
        private final String keys
        private PreparedStatement first
        private PreparedStatement next

        OfCassandra(StandardJanusGraph graph, CQLStoreManager storage) {
            super(graph)
            session = storage.session
            keys = "SELECT DISTINCT key, token(key) AS place FROM ${storage.keyspaceName}.edgestore"
        }

        @Override
        boolean isShared() { true }

        @Override
        Object idOf(String text) { text }

        @Override
        Page page(StandardJanusGraphTx tx, String after, int limit) {
            prepare()
            Page page = new Page()
            int looked = 0
            for (Row row : session.execute(after == null ? first.bind(limit) : next.bind(Long.valueOf(after), limit))) {
                looked++
                page.after = Long.toString(row.getLong('place'))
                Object id = ids.getKeyID(StaticArrayBuffer.of(row.getByteBuffer('key')))
                if (ids.isUserVertexId(id)) page.ids.add(id)
            }
            if (looked < limit) page.after = null
            return page
        }

        /** When it is first asked: a server has to start whether or not this can be done then. */
        private synchronized void prepare() {
            if (next != null) return
            first = prepare("${keys} LIMIT ?")
            next = prepare("${keys} WHERE token(key) > ? LIMIT ?")
        }

        private PreparedStatement prepare(String statement) {
            return session.prepare(SimpleStatement.newInstance(statement).setConsistencyLevel(ConsistencyLevel.QUORUM))
        }
    }
}
