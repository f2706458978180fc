package fleet

import groovy.transform.CompileStatic

/** One entity at one version, its values in the classes that the graph holds. */
@CompileStatic
class EntityRow {
    String key
    String type
    String id
    long version
    Map<String, Object> state
    List<WantedEdge> edges
    /** Whether it also takes the place of a state of the same version. */
    boolean repair
}
