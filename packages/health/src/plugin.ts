import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Access } from './access.js'
import { createEndpoints } from './endpoints.js'
import { HealthRegisteredError } from './errors.js'
import { joinFleet } from './fleet.js'
import { createHealth } from './health.js'
import { bindLog } from './identity.js'
import { beforeFastifyCloses } from './internals.js'
import { readOptions, type HealthOptions } from './options.js'
import { createParts } from './parts.js'
import { addRoutes } from './routes.js'
import { onSignals } from './signals.js'

/**
 * Probes, drain, instance identity, fleet registry and metrics.
 * @throws FLOTILLA_HEALTH_ERR_OPTION, FLOTILLA_HEALTH_ERR_REGISTERED, FLOTILLA_HEALTH_ERR_PORT
 */
async function plugin(fastify: FastifyInstance, options: HealthOptions): Promise<void> {
  if (fastify.hasDecorator('health')) throw new HealthRegisteredError()
  const settings = readOptions(options)
  if (settings.logBinding) bindLog(fastify, settings.instance)

  const parts = createParts(fastify, settings)
  const { board, checks, connections, drain, identity, log, metrics, monitor, ports } = parts
  const endpoints = createEndpoints(parts, new Access(settings.details))

  fastify.decorate('health', createHealth(parts))
  addRoutes(fastify, endpoints)

  const { signals, timeout } = settings.drain
  const ignoreSignals = signals
    ? onSignals({ signals, timeout, log, drain: (signal) => drain.run(signal) })
    : undefined

  fastify.addHook('onReady', async () => {
    parts.fleet = joinFleet(fastify, parts)
    beforeFastifyCloses(fastify, () => drain.beforeClose())
    connections.watchUpgrades()
    monitor.start()
    checks.start()
    board.serving()
    parts.fleet?.start()
  })

  // Before anything is closed: Redis still takes the farewell.
  fastify.addHook('preClose', async () => {
    drain.closing()
    await parts.fleet?.leave()
  })

  fastify.addHook('onClose', async () => {
    ignoreSignals?.()
    checks.stop()
    monitor.stop()
    drain.closed()
    metrics?.close()
    await ports.close()
  })

  // Last, so that the hooks above close what this opens. Answers from now on, however long the app's start takes.
  await ports.start(settings, identity, endpoints)
}

/**
 * Probes, drain, fleet registry and metrics; decorates the instance with `health`, a {@link
 * FlotillaHealth}.
 *
 * @throws FLOTILLA_HEALTH_ERR_OPTION, FLOTILLA_HEALTH_ERR_REGISTERED, FLOTILLA_HEALTH_ERR_PORT from
 * `register`
 */
export const flotillaHealth = fp(plugin, { name: '@flotilla/health', fastify: '5.x' })
export default flotillaHealth
