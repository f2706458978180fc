package fleet

import groovy.transform.CompileStatic

/** An edge as its owner's payload has it. */
@CompileStatic
class WantedEdge {
    String label
    String targetKey
    String targetType
    String targetId
    Map<String, Object> properties
}
