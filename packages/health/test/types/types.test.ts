import Fastify, { type FastifyInstance } from 'fastify'
import type { HealthRegistry } from '@flotilla/core'
import { Registry } from 'prom-client'
import { test } from 'tap'
import health, {
  flotillaHealth,
  type CheckReport,
  type FleetView,
  type FlotillaHealth,
  type HealthOptions,
  type HealthState
} from '../../src/index.js'

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const holds = <_ extends true>(): void => undefined

/** Checked by the compiler; only ever called where it cannot run. */
export function types(app: FastifyInstance): void {
  holds<Same<typeof app.health, FlotillaHealth>>()
  holds<Same<typeof app.health.state, HealthState>>()
  holds<Same<ReturnType<typeof app.health.fleet>, Promise<FleetView>>>()
  holds<FlotillaHealth extends HealthRegistry ? true : false>()

  app.health.addCheck('a', () => undefined)
  app.health.addCheck('b', async ({ signal }) => void (signal satisfies AbortSignal))
  app.health.addCheck('c', (): CheckReport => ({ ok: true, details: { lag: 1, on: true, none: null } }), {
    level: 'info',
    scope: 'shared',
    timeout: '1s',
    failures: 3
  })
  // @ts-expect-error -- a level that does not exist
  app.health.addCheck('d', () => undefined, { level: 'fatal' })
  // @ts-expect-error -- details are figures, not objects
  app.health.addCheck('e', () => ({ details: { nested: {} } }))
  // @ts-expect-error -- a check is no text
  app.health.addCheck('f', () => 'PONG')
  app.health.onDrain('g', async ({ deadline }) => void (deadline satisfies number))
  // @ts-expect-error -- the state is not the app's to set
  app.health.state = 'ready'

  const options: HealthOptions = { drain: false, fleet: false, metrics: { registry: new Registry() } }
  void app.register(health, options)
  void app.register(flotillaHealth, { details: { token: ['a', Buffer.alloc(16)] } })
  // @ts-expect-error -- a misspelt option
  void app.register(health, { drian: {} })
  // @ts-expect-error -- SIGKILL cannot be handled
  void app.register(health, { drain: { signals: ['SIGKILL'] } })
}

test('default and named export are one plugin', (t) => {
  t.equal(health, flotillaHealth)
  t.type(Fastify, 'function')
  t.end()
})
