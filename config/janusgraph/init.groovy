// JanusGraph's init script: makes the schema at start and offers what the fleet and its readers use:
//
//   writer   the batch writer, the server's side of the graph leg: writer.write(batch), writer.check()
//   purge    removes tombstones: purge.find(query), purge.remove(request), purge.mend(request)
//   audit    reads everything, for the audit: audit.page(query), audit.look(query), audit.removeStubs(request)
//   live     the readers' traversal source: it hides tombstones, and endpoints that have not arrived
//   g        everything
//
// What is declared stands in model.json, which is generated from the entity model; nothing of it is repeated here.

import org.apache.tinkerpop.gremlin.process.traversal.dsl.graph.__
import org.apache.tinkerpop.gremlin.process.traversal.strategy.decoration.SubgraphStrategy
import org.codehaus.groovy.control.CompilerConfiguration

def folder = new File(System.getenv('JANUSGRAPH_CONFIG_DIR') ?: '/etc/opt/janusgraph')

// Compiled here instead of as part of this script, for the sake of one option: with invokedynamic Groovy links a cast anew
// whenever the class of its value changes, also in statically compiled code, and that takes longer than the work itself.
def options = new CompilerConfiguration()
options.optimizationOptions.put(CompilerConfiguration.INVOKEDYNAMIC, false)
def classes = new GroovyClassLoader(getClass().classLoader, options)
classes.addClasspath(folder.path)
def make = { String name, Object... arguments -> classes.loadClass("fleet.${name}").newInstance(arguments) }

def model = make('EntityModel', new File(folder, 'model.json'))
def schema = make('EntitySchema', graph, model)
def watch = make('StorageWatch', graph)
def leases = classes.loadClass('fleet.WriteLeases').of(graph)

def globals = [:]
globals << [start: [onStartUp: { context ->
    schema.ensure()
    leases.ensure()
    watch.start()
}] as LifeCycleHook]
globals << [g: traversal().withEmbedded(graph)]
globals << [live: traversal().withEmbedded(graph).withStrategies(
    SubgraphStrategy.build().vertices(__.has('version').hasNot('deleted')).create())]
def writer = make('EntityWriter', graph, model, leases)
globals << [writer: writer]
globals << [purge: make('TombstonePurge', writer)]
globals << [audit: make('GraphAudit', graph, writer)]
