package fleet

import groovy.transform.CompileStatic

/** The locks of a batch's entities could not be had in time: the whole batch again, later. */
@CompileStatic
class WriterBusyException extends RuntimeException {
    WriterBusyException(String message) { super(message) }
}
