package fleet

import com.fasterxml.jackson.databind.ObjectMapper
import groovy.transform.CompileStatic
import java.time.Instant
import java.time.LocalDate
import java.time.ZoneOffset
import org.apache.tinkerpop.gremlin.structure.Direction
import org.apache.tinkerpop.gremlin.structure.Property
import org.janusgraph.core.JanusGraphTransaction
import org.janusgraph.core.JanusGraphVertex

/**
 * Removes tombstones for good: those that were written before a moment and that no edge leads to.
 *
 * Tombstones are found by the day that they were written on: a day's are one row of an index, so neither a full scan nor
 * those that are too young are read. Each transaction removes a few, under the writer's locks: no event can revive one
 * meanwhile, and no edge can come to lead to it.
 */
@CompileStatic
class TombstonePurge {
    /** There was no fleet before. */
    private static final LocalDate FIRST_DAY = LocalDate.of(2025, 1, 1)

    private final EntityWriter writer
    private final ObjectMapper json = new ObjectMapper()

    TombstonePurge(EntityWriter writer) { this.writer = writer }

    /**
     * Some tombstones of the first day that has any: {"day": YYYY-MM-DD, "keys": [entity key, …]}, or {"day": null,
     * "keys": []} when there are none up to the day of `before`.
     *
     * The query is {"before": milliseconds since 1970, "day": YYYY-MM-DD or null for the first one there is, "skip":
     * how many of that day to pass over, "limit": how many keys to give}.
     */
    String find(String query) {
        Map<String, Object> asked = json.readValue(query, Map)
        LocalDate last = Instant.ofEpochMilli(((Number) asked.get('before')).longValue()).atZone(ZoneOffset.UTC).toLocalDate()
        LocalDate day = asked.get('day') == null ? FIRST_DAY : LocalDate.parse((String) asked.get('day'))
        int skip = ((Number) asked.get('skip')).intValue()
        int limit = ((Number) asked.get('limit')).intValue()
        JanusGraphTransaction tx = writer.begin()
        try {
            for (; !day.isAfter(last); day = day.plusDays(1)) {
                List<String> keys = keysOf(tx, day, skip, limit)
                if (!keys.isEmpty()) return json.writeValueAsString([day: day.toString(), keys: keys])
                skip = 0
            }
            return json.writeValueAsString([day: null, keys: []])
        } finally {
            tx.rollback()
        }
    }

    /**
     * Removes what is due of {"before": milliseconds since 1970, "keys": [entity key, …]}, in one transaction; gives
     * how many those were.
     */
    int remove(String request) {
        Map<String, Object> asked = json.readValue(request, Map)
        Date before = new Date(((Number) asked.get('before')).longValue())
        Set<String> keys = new LinkedHashSet<>((List<String>) asked.get('keys'))
        List<String> ids = keys.collect { String key -> key.substring(key.indexOf(':') + 1) }
        return writer.locked(keys, ids) { WriteLeases.Lease lease -> removeDue(keys, before, lease) }
    }

    /**
     * Makes entities that have not arrived of those of {"keys": [entity key, …]} that are gone while an edge leads to
     * them; gives how many those were. Where servers share a storage, another one may have written such an edge just
     * when the tombstone was removed: no lock keeps them apart. To be called when that write must have ended.
     */
    int mend(String request) {
        Set<String> keys = new LinkedHashSet<>((List<String>) json.readValue(request, Map).get('keys'))
        JanusGraphTransaction tx = writer.begin()
        try {
            int mended = 0
            keys.removeAll(writer.find(tx, keys).keySet())
            for (String key : keys) {
                JanusGraphVertex vertex = (JanusGraphVertex) tx.getVertex(key)
                if (vertex == null || !isPointedTo(vertex)) continue
                int colon = key.indexOf(':')
                writer.add(tx, key.substring(0, colon), key.substring(colon + 1), key)
                mended++
            }
            tx.commit()
            return mended
        } finally {
            if (tx.isOpen()) tx.rollback()
        }
    }

    private static List<String> keysOf(JanusGraphTransaction tx, LocalDate day, int skip, int limit) {
        List<String> keys = []
        int place = 0
        for (Object found : tx.query().has('deleted_on', day.toString()).limit(skip + limit).vertices()) {
            if (place++ < skip) continue
            // Another server may have removed it since the index was read.
            Property<Object> key = ((JanusGraphVertex) found).property('entity_key')
            if (key.isPresent()) keys.add((String) key.value())
        }
        return keys
    }

    private int removeDue(Set<String> keys, Date before, WriteLeases.Lease lease) {
        JanusGraphTransaction tx = writer.begin()
        try {
            int removed = 0
            for (JanusGraphVertex vertex : writer.find(tx, keys).values()) {
                if (!isDue(vertex, before)) continue
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

    private static boolean isDue(JanusGraphVertex vertex, Date before) {
        Property<Object> deletedAt = vertex.property('deleted_at')
        if (!deletedAt.isPresent() || !((Date) deletedAt.value()).before(before)) return false
        return !isPointedTo(vertex)
    }

    private static boolean isPointedTo(JanusGraphVertex vertex) {
        return !vertex.query().direction(Direction.IN).limit(1).edges().isEmpty()
    }
}
