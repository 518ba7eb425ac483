import { randomBytes } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import type { Settings } from './options.js'

/** Who this process is among its siblings. */
export interface Identity {
  /** The name shown to people: `HOSTNAME` unless set. */
  readonly instance: string
  readonly version: string
  /** Unique for each start of the process, also where two instances share a name; the bus' where there is one. */
  id: string
}

export function createIdentity({ instance, version }: Settings): Identity {
  return { instance, version, id: `${instance}-${randomBytes(4).toString('hex')}` }
}

/** Puts `instance` on every later line of the app's log, where the logger can (pino's `setBindings`). */
export function bindLog(fastify: FastifyInstance, instance: string): void {
  const log = fastify.log as { setBindings?: (bindings: object) => void }
  log.setBindings?.({ instance })
}
