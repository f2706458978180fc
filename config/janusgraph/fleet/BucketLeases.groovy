package fleet

import com.datastax.oss.driver.api.core.ConsistencyLevel
import com.datastax.oss.driver.api.core.CqlSession
import com.datastax.oss.driver.api.core.cql.AsyncResultSet
import com.datastax.oss.driver.api.core.cql.PreparedStatement
import com.datastax.oss.driver.api.core.cql.Row
import com.datastax.oss.driver.api.core.cql.SimpleStatement
import groovy.transform.CompileStatic
import java.nio.charset.StandardCharsets
import java.util.concurrent.CompletionStage
import java.util.concurrent.TimeUnit
import java.util.zip.CRC32
import org.janusgraph.diskstorage.cql.CQLStoreManager

/**
 * Leases in Cassandra: each of 64 buckets of entities is written by one of the servers at a time.
 *
 * The version guard is a read followed by a write, which a lock in one server cannot keep another one out of. A lease is
 * a row that expires, changed by lightweight transactions alone, so at most one server holds it whatever the services
 * believe about who is up. A server whose lease may end before its commit does gives up; one that takes over starts when
 * the old one's lease has expired, so nothing of the old one can still arrive, and the clocks by which Cassandra orders
 * writes may differ by as much.
 */
@CompileStatic
class BucketLeases extends WriteLeases {
    /** As many as there are ordering keys of messages, by the same hash, so that a service has whole buckets. */
    private static final int BUCKETS = 64
    private static final long LEASE_SECONDS = 45
    /** What has to be left of a lease for a batch to begin; with less it is renewed. */
    private static final long BEGIN_SECONDS = 36
    /** What has to be left of it for a commit to begin: no commit takes longer (janusgraph-cassandra.properties). */
    private static final long COMMIT_SECONDS = 26

    private final CqlSession session
    private final String table
    private final String server
    /** Until when each bucket is this server's, by System.nanoTime(); null where it is not. */
    private final Long[] heldUntil = new Long[BUCKETS]
    private PreparedStatement change

    BucketLeases(CQLStoreManager storage, String server) {
        this.session = storage.session
        this.table = "${storage.keyspaceName}.write_leases"
        this.server = server
    }

    @Override
    void ensure() {
        session.execute("CREATE TABLE IF NOT EXISTS ${table} (bucket int PRIMARY KEY, server text)".toString())
        // Cassandra expires in whole seconds, up to one too early: hence one more.
        SimpleStatement statement = SimpleStatement.newInstance(
            "UPDATE ${table} USING TTL ${LEASE_SECONDS + 1} SET server = ? WHERE bucket = ? IF server = ?".toString())
        change = session.prepare(statement.setConsistencyLevel(ConsistencyLevel.QUORUM))
    }

    @Override
    WriteLeases.Lease take(Collection<String> entityIds) {
        BitSet buckets = new BitSet(BUCKETS)
        for (String entityId : entityIds) buckets.set(bucketOf(entityId))
        return new HeldBuckets(until: hold(buckets))
    }

    private static int bucketOf(String entityId) {
        CRC32 hash = new CRC32()
        hash.update(entityId.getBytes(StandardCharsets.UTF_8))
        return (int) (hash.value % BUCKETS)
    }

    /** Takes or renews leases, all at once; the moment at which the first of them ends. */
    private synchronized long hold(BitSet buckets) {
        long now = System.nanoTime()
        BitSet ending = new BitSet(BUCKETS)
        for (int bucket : buckets.stream().toArray()) {
            if (heldUntil[bucket] == null || heldUntil[bucket] - now < TimeUnit.SECONDS.toNanos(BEGIN_SECONDS)) ending.set(bucket)
        }
        BitSet free = changeAll(ending, server)
        changeAll(free, null)
        return buckets.stream().mapToLong { int bucket -> (long) heldUntil[bucket] }.min().asLong
    }

    /** Makes this server the holder of buckets that `holder` has; gives those that nobody has. */
    private BitSet changeAll(BitSet buckets, String holder) {
        long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(LEASE_SECONDS)
        Map<Integer, CompletionStage<AsyncResultSet>> answers = new LinkedHashMap<>()
        for (int bucket : buckets.stream().toArray()) answers.put(bucket, session.executeAsync(change.bind(server, bucket, holder)))
        BitSet free = new BitSet(BUCKETS)
        Map<Integer, String> foreign = new TreeMap<>()
        for (Map.Entry<Integer, CompletionStage<AsyncResultSet>> answer : answers.entrySet()) {
            AsyncResultSet result = answer.value.toCompletableFuture().get()
            if (result.wasApplied()) {
                heldUntil[answer.key] = until
                continue
            }
            heldUntil[answer.key] = null
            String other = holderIn(result.one())
            if (other == null) free.set(answer.key)
            else foreign.put(answer.key, other)
        }
        if (!foreign.isEmpty()) {
            throw new ForeignEntityException("another server still writes buckets of this batch, for up to ${LEASE_SECONDS} s: ${foreign}")
        }
        return free
    }

    private static String holderIn(Row row) {
        return row != null && row.columnDefinitions.contains('server') ? row.getString('server') : null
    }

    private static class HeldBuckets extends WriteLeases.Lease {
        long until

        @Override
        void confirm() {
            if (until - System.nanoTime() < TimeUnit.SECONDS.toNanos(COMMIT_SECONDS)) {
                throw new WriterBusyException('this batch took too long for its lease: its writes could come after another server\'s')
            }
        }
    }
}
