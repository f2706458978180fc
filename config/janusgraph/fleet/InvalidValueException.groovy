package fleet

import groovy.transform.CompileStatic

/** A value that its property cannot hold. */
@CompileStatic
class InvalidValueException extends RuntimeException {
    final String property

    InvalidValueException(String property, String problem) {
        super(problem)
        this.property = property
    }
}
