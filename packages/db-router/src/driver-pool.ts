import { Pool, type ClientBase, type ClientConfig, type PoolClient, type PoolConfig } from 'pg'
import type { ConnectionEvent } from './connection-events.js'
import { because } from './errors.js'
import { greet, RouterClient, type SessionSettings } from './router-client.js'

export interface PoolSettings extends SessionSettings {
  /** Connections. */
  max: number
  /** Callers that may wait for a connection. */
  maxWaiting: number
  /** How long they wait, in milliseconds. */
  acquireTimeout: number
  /** How long making a connection may take, in milliseconds. */
  connectTimeout: number
  idleTimeout: number
  maxLifetime: number
  /** Connections that are kept however long they are idle. */
  min: number
  /** How often one is lent before it is replaced; `undefined` for any number. */
  maxUses: number | undefined
  /** Runs on each new connection before it is lent for the first time. */
  onConnect: ((client: PoolClient) => unknown) | undefined
}

/** What a pool reports to its server. */
export interface PoolReports {
  /** Gets each new connection once it is known who answers there, before anything is sent. */
  readonly greeted: (client: RouterClient) => void
  readonly event: (event: ConnectionEvent, client: RouterClient, error?: Error) => void
}

/** A hook of the user's failed: that says nothing about the server. */
export class HookError extends Error {}

/** How long an attempt to connect may take, in milliseconds. */
export const connectTimeoutOf = ({ acquireTimeout, connectTimeout }: PoolSettings): number =>
  Math.min(acquireTimeout, connectTimeout)

/**
 * The driver's pool for one server: it makes the connections, keeps the idle ones and ends the old ones.
 *
 * @param config the server; what else of `pg.Pool`'s options it has, such as `log` or `verify`, counts too
 */
export function createDriverPool(
  config: ClientConfig,
  settings: PoolSettings,
  reports: PoolReports & { readonly made: (client: RouterClient) => void }
): Pool {
  const { greeted, event, made } = reports
  const Client = class extends RouterClient {
    constructor(options: ClientConfig) {
      super(options)
      made(this)
    }
  }
  const { verify } = config as PoolConfig
  const pool = new Pool({
    ...config,
    max: settings.max,
    min: settings.min,
    maxUses: settings.maxUses,
    connectionTimeoutMillis: connectTimeoutOf(settings),
    idleTimeoutMillis: settings.idleTimeout,
    maxLifetimeSeconds: settings.maxLifetime / 1000,
    Client: Client as unknown as new () => ClientBase,
    ...(verify && {
      verify: (client, done) => verify(client, (error) => done(error && asHookError(error)))
    }),
    // The driver waits for it, other than its types have it.
    onConnect: (client) => prepare(client as RouterClient, settings, greeted) as unknown as undefined
  })
  pool.on('connect', (client) => {
    const own = client as unknown as RouterClient
    own.connectedAt = performance.now()
    event('connect', own)
  })
  pool.on('remove', (client) => event('remove', client as unknown as RouterClient))
  // An idle backend that is terminated must not end the process.
  pool.on('error', (error, client) => event('error', client as unknown as RouterClient, error))
  return pool
}

async function prepare(
  client: RouterClient,
  settings: PoolSettings,
  greeted: PoolReports['greeted']
): Promise<void> {
  await greet(client, settings, settings.connectTimeout)
  greeted(client)
  try {
    await settings.onConnect?.(client)
  } catch (error) {
    throw asHookError(error)
  }
}

const asHookError = (thrown: unknown): HookError =>
  because(new HookError('A hook for new connections failed'), thrown)
