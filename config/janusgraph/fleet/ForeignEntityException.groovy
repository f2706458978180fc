package fleet

import groovy.transform.CompileStatic

/** Another server has the right to write an entity of this batch: to that one, or here once its right has ended. */
@CompileStatic
class ForeignEntityException extends RuntimeException {
    ForeignEntityException(String message) { super(message) }
}
