import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { AgentStatus } from './agent-reply.js'
import { Answers, type Details } from './answers.js'
import { CheckSet } from './check-set.js'
import { Connections } from './connections.js'
import { CorrelationGuard } from './correlation-guard.js'
import { Drain } from './drain.js'
import { ExtraPorts } from './extra-ports.js'
import type { FleetRegistry } from './fleet-registry.js'
import { createIdentity, type Identity } from './identity.js'
import { LoadMonitor } from './load-monitor.js'
import { Metrics } from './metrics.js'
import type { Settings } from './options.js'
import { RequestGate } from './request-gate.js'
import { StatusBoard } from './status-board.js'

/** Everything one app's plugin is made of. */
export interface Parts {
  settings: Settings
  log: FastifyBaseLogger
  identity: Identity
  guard: CorrelationGuard
  checks: CheckSet
  board: StatusBoard
  monitor: LoadMonitor
  connections: Connections
  gate: RequestGate
  drain: Drain
  metrics: Metrics | undefined
  answers: Answers
  ports: ExtraPorts
  /** Set once all plugins are loaded, where there is Redis. */
  fleet: FleetRegistry | undefined
}

/** Makes the parts and tells each of the others; starts nothing. */
export function createParts(fastify: FastifyInstance, settings: Settings): Parts {
  const log = fastify.log.child({ plugin: '@flotilla/health' })
  const identity = createIdentity(settings)
  const { instance, version } = identity
  const guard = new CorrelationGuard(settings.fleet === false ? 0 : settings.fleet.lease / 3)

  const checks: CheckSet = new CheckSet(settings.checks, (check, changed) => {
    if (changed && check.status === 'failing')
      log.warn({ check: check.name, result: check.snapshot() }, 'check fails')
    else if (changed) log.info({ check: check.name }, 'check passes')
    board.update()
  })
  const board = new StatusBoard(checks, guard)
  const monitor = new LoadMonitor(settings.overload, (passed) => {
    board.flag('overloaded', passed.length > 0 ? `overloaded: ${passed.join(', ')}` : undefined)
    gate.refuse(passed.length > 0)
    ports.update()
  })

  const connections = new Connections(fastify.server)
  const sources = { instance, version, board, checks, connections, load: monitor.load }
  const metrics = settings.metrics ? new Metrics(fastify, settings.metrics, sources) : undefined
  const gate = new RequestGate(fastify, {
    header: settings.header,
    instance,
    retryAfter: settings.overload?.retryAfter ?? 0,
    onArrival: metrics && ((request, reply) => metrics.http.begin(request, reply))
  })
  const drain = new Drain(fastify, settings.drain, board, { gate, connections })

  const ports = new ExtraPorts((): AgentStatus => ({
    state: board.state,
    maintenance: board.has('maintenance'),
    overloaded: board.has('overloaded'),
    utilization: monitor.load.utilization
  }))
  const details = (): Details => ({
    state: board.state,
    id: identity.id,
    reasons: board.reasons,
    checks: checks.snapshot(),
    memory: { rss: monitor.load.rss, heapUsed: monitor.load.heapUsed, heapTotal: monitor.load.heapTotal },
    eventLoop: { delay: monitor.load.delay, utilization: monitor.load.utilization },
    connections: { open: connections.open, requests: connections.requests }
  })
  const answers = new Answers(identity, board, details)

  const parts: Parts = {
    settings,
    log,
    identity,
    guard,
    checks,
    board,
    monitor,
    connections,
    gate,
    drain,
    metrics,
    answers,
    ports,
    fleet: undefined
  }
  board.onChange((state, before) => {
    log.info({ state, before, reasons: board.reasons }, 'health changed')
    ports.update()
    parts.fleet?.beat()
  })
  return parts
}
