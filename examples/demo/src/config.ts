import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'

/** What one instance needs to know. Each name may also be given as `NAME_FILE`, the path of a file that holds it. */
export interface Config {
  readonly host: string
  readonly port: number
  /** Probes, `/health/fleet` and `/metrics`, unguarded, on a port for operators alone; undefined for none. */
  readonly adminPort: number | undefined
  /** HAProxy's agent-check; undefined for none. */
  readonly agentPort: number | undefined
  /** Any topology: `redis://`, `redis+sentinel://`, `redis+cluster://`. */
  readonly redisUrl: string
  readonly databaseUrl: string
  /** Empty: every read goes to the primary. */
  readonly replicaUrls: readonly string[]
  readonly sessionSecret: string
  readonly version: string
  /** Where the fleet runner listens for the operator's buttons; empty in a real deployment. */
  readonly controlUrl: string
  /** Something broken on purpose, to see that `--check` finds it. */
  readonly fault: string
}

/** How an instance leaves; the grace periods in docker/ are longer than its `timeout`. */
export const DRAIN = { delay: '2s', quiet: '500ms', timeout: '20s' } as const

export class ConfigError extends Error {
  readonly code = 'DEMO_ERR_CONFIG'
}

export function readConfig(env: Readonly<Record<string, string | undefined>> = process.env): Config {
  return {
    host: setting(env, 'HOST') ?? '0.0.0.0',
    port: portOf(env, 'PORT') ?? 8080,
    adminPort: portOf(env, 'ADMIN_PORT'),
    agentPort: portOf(env, 'AGENT_PORT'),
    redisUrl: needed(env, 'REDIS_URL', 'redis://localhost:6379'),
    databaseUrl: needed(env, 'DATABASE_URL', 'postgres://user:password@localhost:5432/app'),
    replicaUrls: (setting(env, 'DATABASE_REPLICA_URL') ?? '').split(',').filter(Boolean),
    sessionSecret: secretOf(env),
    version: setting(env, 'APP_VERSION') ?? 'unknown',
    controlUrl: setting(env, 'DEMO_CONTROL_URL') ?? '',
    fault: setting(env, 'DEMO_FAULT') ?? ''
  }
}

function setting(env: Readonly<Record<string, string | undefined>>, name: string): string | undefined {
  const file = env[`${name}_FILE`]
  if (!file) return env[name] || undefined
  try {
    return readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw new ConfigError(`${name}_FILE names ${file}, which cannot be read`, { cause: error })
  }
}

function needed(env: Readonly<Record<string, string | undefined>>, name: string, example: string): string {
  const value = setting(env, name)
  if (value === undefined)
    throw new ConfigError(`set ${name} (or ${name}_FILE), for example ${name}=${example}`)
  return value
}

function secretOf(env: Readonly<Record<string, string | undefined>>): string {
  const secret = setting(env, 'SESSION_SECRET')
  if (secret === undefined) {
    const example = randomBytes(32).toString('base64url')
    throw new ConfigError(
      `set SESSION_SECRET, the same on every instance, for example SESSION_SECRET=${example}`
    )
  }
  if (secret.length < 32) throw new ConfigError('SESSION_SECRET must have at least 32 characters')
  return secret
}

function portOf(env: Readonly<Record<string, string | undefined>>, name: string): number | undefined {
  const text = setting(env, name)
  if (text === undefined) return undefined
  const port = Number(text)
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new ConfigError(`${name} must be a number from 0 to 65535, not "${text}"`)
  }
  return port
}
