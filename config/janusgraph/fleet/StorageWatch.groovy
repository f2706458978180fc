package fleet

import groovy.transform.CompileStatic
import org.janusgraph.core.JanusGraph
import org.slf4j.Logger
import org.slf4j.LoggerFactory

/**
 * Ends a server whose storage has died, so that it is started again; nothing that was committed is lost.
 *
 * BerkeleyJE gives up for good when one of its threads is interrupted, and that is how Gremlin Server ends a query that
 * takes longer than evaluationTimeout: one slow reader would leave a server that answers nothing until somebody looks.
 */
@CompileStatic
class StorageWatch implements Runnable {
    private static final Logger LOGGER = LoggerFactory.getLogger(StorageWatch)
    private static final long EVERY_MILLISECONDS = 1000
    private static final int EXIT_STATUS = 70

    private final JanusGraph graph

    StorageWatch(JanusGraph graph) { this.graph = graph }

    void start() {
        Thread thread = new Thread(this, 'storage-watch')
        thread.daemon = true
        thread.start()
    }

    @Override
    void run() {
        while (graph.isOpen()) {
            try {
                graph.newTransaction().rollback()
            } catch (Exception error) {
                if (isFatal(error)) {
                    LOGGER.error('The storage has to be opened anew: this server ends, to be started again.', error)
                    Runtime.runtime.halt(EXIT_STATUS)
                }
            }
            Thread.sleep(EVERY_MILLISECONDS)
        }
    }

    private static boolean isFatal(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.cause) {
            for (Class<?> type = cause.class; type != null; type = type.superclass) {
                if (type.name == 'com.sleepycat.je.EnvironmentFailureException') return true
            }
        }
        return false
    }
}
