import type pg from 'pg'
import { because } from './errors.js'

/** One server as listed in the options. */
export interface ServerAddress {
  /** `host:port/database`; without credentials, so that it can be logged, and distinguishes two servers. */
  readonly name: string
  readonly config: pg.ClientConfig
}

/** `undefined` for what names no server. */
export function parseServer(value: unknown): ServerAddress | undefined {
  if (typeof value === 'string') return fromUrl(value, {})
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined
  const config = value as pg.ClientConfig
  if (typeof config.connectionString === 'string') return fromUrl(config.connectionString, config)
  if (typeof config.host !== 'string' || config.host === '') return undefined
  const name = `${config.host}:${config.port ?? 5432}/${config.database ?? config.user ?? ''}`
  return { name, config: withDefaults(config) }
}

function fromUrl(text: string, config: pg.ClientConfig): ServerAddress | undefined {
  let url: URL
  try {
    url = new URL(text)
  } catch {
    return undefined
  }
  if (url.protocol !== 'postgres:' && url.protocol !== 'postgresql:') return undefined
  const host = url.hostname || url.searchParams.get('host') || ''
  if (host === '') return undefined
  const name = `${host}:${url.port || url.searchParams.get('port') || 5432}${url.pathname}`
  return { name, config: withDefaults({ ...config, connectionString: text }) }
}

function withDefaults(config: pg.ClientConfig): pg.ClientConfig {
  const { password } = config
  // A dead peer must show even on a connection that only waits.
  const own = { keepAlive: true, keepAliveInitialDelayMillis: 10_000, ...config }
  // In the options of the driver's pool it is not enumerable.
  return password === undefined
    ? own
    : { ...own, password: typeof password === 'function' ? guarded(password) : password }
}

/** What a password function fails with may name secrets: it stays inside, as cause. */
function guarded(ask: () => string | Promise<string>): () => Promise<string> {
  return async function password(this: unknown, ...args: []) {
    try {
      return await ask.apply(this, args)
    } catch (error) {
      throw because(new Error('The password function failed'), error)
    }
  }
}
