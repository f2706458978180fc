package fleet

import com.fasterxml.jackson.databind.ObjectMapper
import groovy.transform.CompileStatic

/** model.json, read once at start. */
@CompileStatic
class EntityModel {
    private static final Map<String, Class<?>> CLASSES =
        [String: String, Long: Long, Double: Double, Boolean: Boolean, Date: Date] as Map<String, Class<?>>

    final String fingerprint
    final Map<String, Class<?>> properties = new LinkedHashMap<>()
    final List<String> vertexLabels
    final List<String> edgeLabels
    final List<String> unique
    final Set<String> lookups

    EntityModel(File file) {
        Map<String, Object> model = new ObjectMapper().readValue(file, Map)
        fingerprint = (String) model.get('fingerprint')
        ((Map<String, String>) model.get('properties')).each { String name, String type ->
            Class<?> known = CLASSES.get(type)
            if (known == null) throw new IllegalStateException("${file}: property '${name}' has the unknown type '${type}'")
            properties.put(name, known)
        }
        vertexLabels = (List<String>) model.get('vertex_labels')
        edgeLabels = (List<String>) model.get('edge_labels')
        unique = (List<String>) model.get('unique')
        lookups = new LinkedHashSet<>((List<String>) model.get('lookups'))
    }
}
