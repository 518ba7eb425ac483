import cluster from 'node:cluster'
import { hostname } from 'node:os'
import { isIP } from 'node:net'
import { optionReader, type Duration, type OptionReader, type Secret, type Size } from '@flotilla/core'
import type { RedisClient } from '@flotilla/redis'
import type { Registry } from 'prom-client'
import { HealthOptionError } from './errors.js'

/** An extra TCP port. */
export interface PortOptions {
  /** 0 takes any free port. */
  port: number
  /** Default `'0.0.0.0'`. */
  host?: string
}

/** Defaults of every check. */
export interface CheckDefaults {
  /** How long one run may take. Default `'1s'`. */
  timeout?: Duration
  /** Time between runs. Default `'10s'`. */
  interval?: Duration
  /** Random part of the interval, so that a fleet does not check in step. Default 0.1. */
  jitter?: number
  /** Failures in a row before a check that passed counts as failing. Default 2. */
  failures?: number
  /** Successes in a row before a check that failed counts as passing. Default 1. */
  successes?: number
}

/** Who sees details, the fleet and the metrics. */
export interface DetailsOptions {
  /** Bearer tokens that unlock details, `/health/fleet` and `/metrics`; compared in constant time. */
  token?: Secret
  /**
   * Addresses and CIDR ranges that need no token. It is the address of the connection that counts, and a
   * request that came through a proxy (it carries `forwarded` or `x-forwarded-for`) never counts.
   */
  allow?: readonly string[]
}

/** The drain sequence. */
export interface DrainOptions {
  /** How long routes keep serving after readiness fell, so that balancers notice first. Default `'5s'`. */
  delay?: Duration
  /** The delay ends early after this long without a new request; 0 never ends it early. Default `'2s'`. */
  quiet?: Duration
  /** Hard limit of the whole sequence; what remains is cut. Default `'30s'`. */
  timeout?: Duration
  /** Signals that start it; false installs no handler. Default SIGTERM and SIGINT. */
  signals?: readonly ('SIGTERM' | 'SIGINT' | 'SIGHUP' | 'SIGQUIT' | 'SIGUSR2')[] | false
}

/** Limits past which requests are refused with 503. */
export interface OverloadOptions {
  /** 99th percentile of the event loop's delay within one sample. Default off. */
  eventLoopDelay?: Duration
  /** Share of time the event loop was busy, 0 to 1. Default off. */
  eventLoopUtilization?: number
  /** Bytes of V8's heap in use. Default off. */
  heapUsed?: Size
  /** Resident memory of the process in bytes. Default off. */
  rss?: Size
  /** Time between samples. Default `'500ms'`. */
  interval?: Duration
  /** The `Retry-After` of refused requests. Default `'5s'`. */
  retryAfter?: Duration
}

/** The fleet registry in Redis. */
export interface FleetOptions {
  /** Instances of one name see each other. Default `'app'`. */
  name?: string
  /** How long an instance counts as live after a heartbeat; heartbeats come three times as often. Default `'10s'`. */
  lease?: Duration
}

/** The thread that answers while the event loop is blocked. */
export interface WorkerOptions {
  /** The port on which the worker thread answers liveness. */
  port: number
  /** Default `'0.0.0.0'`. */
  host?: string
  /** Port of an agent-check answered by the worker rather than the main loop. Default none. */
  agentPort?: number
  /** A main loop silent for longer is reported as blocked. Default `'2s'`. */
  blockedAfter?: Duration
}

/** Prometheus metrics. */
export interface MetricsOptions {
  /** Default `'/metrics'`. */
  path?: string
  /** A prom-client registry to use; default one of the plugin's own. */
  registry?: Registry
  /** Node's process metrics from prom-client's `collectDefaultMetrics`. Default true. */
  defaults?: boolean
  /** Serves metrics to anyone who can reach the port, rather than as `details` says. Default false. */
  public?: boolean
}

/** Options of the plugin. */
export interface HealthOptions {
  /** Where the endpoints are. Default `'/health'`. */
  path?: string
  /** Default the environment's `APP_VERSION`, else `'unknown'`. */
  version?: string | undefined
  /**
   * The name shown for this instance. Default the environment's `HOSTNAME`, else the host's name, followed in a cluster by
   * the number of the worker (PM2's `NODE_APP_INSTANCE`, else that of `node:cluster`).
   */
  instance?: string | undefined
  /** Adds the instance's name to each response; true names the header `x-instance`. Default false. */
  header?: boolean | string
  /** Adds `instance` to every line of the log. Default true. */
  logBinding?: boolean
  /** Defaults for every check. */
  checks?: CheckDefaults
  /** Who may see details. Default nobody. */
  details?: DetailsOptions
  /** A port of its own for every endpoint, unguarded and with details: never expose it. Default none. */
  admin?: PortOptions
  /** Limits past which requests are refused with 503. Default none. */
  overload?: OverloadOptions
  /**
   * How signals, `app.close()` and `app.health.drain()` take the instance out of service. False installs no signal handler,
   * and `app.close()` then waits for no balancer: for tests.
   */
  drain?: DrainOptions | false
  /**
   * Redis for the fleet registry: a client, or the name of a `@fastify/redis` namespace; default
   * `fastify.redis` where there is one. False goes without.
   */
  redis?: string | RedisClient | false
  /** The fleet registry; false goes without. */
  fleet?: FleetOptions | false
  /** HAProxy's agent-check on a TCP port. Default none. */
  agent?: PortOptions
  /** Answers liveness from a worker thread, so that a blocked loop is reported. Default none. */
  worker?: WorkerOptions
  /** Prometheus metrics. Default false. */
  metrics?: boolean | MetricsOptions
}

export type Settings = ReturnType<typeof readOptions>
export type CheckSettings = Settings['checks']
export type DrainSettings = Settings['drain']
export type OverloadSettings = NonNullable<Settings['overload']>
export type FleetSettings = Exclude<Settings['fleet'], false>
export type WorkerSettings = NonNullable<Settings['worker']>
export type MetricsSettings = Exclude<Settings['metrics'], false>
export type DetailsSettings = Settings['details']

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR2'] as const

/** Checks all options before anything is opened. @throws FLOTILLA_HEALTH_ERR_OPTION */
export function readOptions(input: HealthOptions | undefined) {
  const from = optionReader('@flotilla/health', input, HealthOptionError)
  const settings = {
    path: readPath(from, 'path', '/health'),
    version: from.string('version', undefined) ?? process.env['APP_VERSION'] ?? 'unknown',
    instance: from.string('instance', undefined) ?? defaultInstance(),
    header: readHeader(from),
    logBinding: from.boolean('logBinding', true),
    checks: from.group('checks', readChecks) ?? readChecks(reader({})),
    details: from.group('details', readDetails) ?? { token: undefined, allow: [] },
    admin: from.group('admin', readPort),
    overload: from.group('overload', readOverload),
    drain: switchable(from, 'drain', readDrain) || {
      ...readDrain(reader({ signals: false })),
      onClose: false
    },
    redis: readRedis(from),
    fleet: switchable(from, 'fleet', readFleet),
    agent: from.group('agent', readPort),
    worker: from.group('worker', readWorker),
    metrics: from.raw('metrics') === undefined ? (false as const) : switchable(from, 'metrics', readMetrics)
  }
  from.done()
  return settings
}

/** The workers of one host are instances of their own: figures of the same name would replace each other. */
function defaultInstance(): string {
  const host = process.env['HOSTNAME'] || hostname()
  const worker = process.env['NODE_APP_INSTANCE'] || cluster.worker?.id
  return worker === undefined ? host : `${host}-${worker}`
}

function reader(input: object): OptionReader {
  return optionReader('@flotilla/health', input, HealthOptionError)
}

/** `false` switches a part off; `undefined` and `true` take its defaults. */
function switchable<T>(from: OptionReader, name: string, read: (reader: OptionReader) => T): T | false {
  const value = from.raw(name)
  if (value === false) return false
  if (value === undefined || value === true) return read(reader({}))
  return from.group(name, read)!
}

function readPath<D extends string>(from: OptionReader, name: string, fallback: D): string {
  const path = from.string(name, fallback)
  if (!/^\/[^?#\s:*]*[^/?#\s:*]$/.test(path)) from.fail(name, "a path such as '/health'")
  return path
}

function readHeader(from: OptionReader): string | undefined {
  const value = from.raw('header')
  if (value === undefined || value === false) return undefined
  if (value === true) return 'x-instance'
  if (typeof value !== 'string' || !/^[a-z0-9-]+$/i.test(value)) {
    return from.fail('header', 'true, false or the name of a header')
  }
  return value.toLowerCase()
}

function readChecks(from: OptionReader) {
  return {
    timeout: from.duration('timeout', { default: 1000, min: 1 }),
    interval: from.duration('interval', { default: 10_000, min: 10 }),
    jitter: from.number('jitter', { default: 0.1, max: 1 }),
    failures: from.integer('failures', { default: 2, min: 1 }),
    successes: from.integer('successes', { default: 1, min: 1 })
  }
}

function readDetails(from: OptionReader) {
  const allow = from.strings('allow', [] as string[])
  for (const range of allow) {
    const [address = '', bits, more] = range.split('/')
    const family = isIP(address)
    const width = family === 4 ? 32 : 128
    const fits = bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= width)
    if (family === 0 || !fits || more !== undefined) {
      from.fail('allow', "a list of IP addresses and CIDR ranges such as '10.0.0.0/8'")
    }
  }
  return { token: from.has('token') ? from.secret('token', 16) : undefined, allow }
}

function readPort(from: OptionReader) {
  return {
    port: from.integer('port', { default: undefined, max: 65_535 }) ?? from.fail('port', 'a port number'),
    host: from.string('host', '0.0.0.0')
  }
}

function readOverload(from: OptionReader) {
  return {
    eventLoopDelay: from.duration('eventLoopDelay', { default: Infinity, min: 1 }),
    eventLoopUtilization: from.number('eventLoopUtilization', { default: Infinity, max: 1 }),
    heapUsed: from.size('heapUsed', { default: Infinity, min: 1 }),
    rss: from.size('rss', { default: Infinity, min: 1 }),
    interval: from.duration('interval', { default: 500, min: 20 }),
    retryAfter: from.duration('retryAfter', { default: 5000, min: 1 })
  }
}

function readDrain(from: OptionReader) {
  const signals = from.raw('signals')
  const known = (one: unknown): boolean => SIGNALS.some((signal) => signal === one)
  if (signals !== undefined && signals !== false && !(Array.isArray(signals) && signals.every(known))) {
    from.fail('signals', `false or a list of ${SIGNALS.join(', ')}`)
  }
  const delay = from.duration('delay', { default: 5000 })
  const timeout = from.duration('timeout', { default: 30_000, min: 1 })
  if (timeout <= delay) from.fail('timeout', `longer than 'drain.delay' (${delay} ms)`)
  return {
    delay,
    timeout,
    quiet: from.duration('quiet', { default: 2000 }),
    /** Whether `app.close()` waits for balancers to notice. */
    onClose: true,
    signals: (signals ?? ['SIGTERM', 'SIGINT']) as (typeof SIGNALS)[number][] | false
  }
}

function readRedis(from: OptionReader): string | RedisClient | false | undefined {
  const value = from.raw<string | RedisClient | false>('redis')
  const client = typeof value === 'object' && value !== null && 'duplicate' in value
  if (value !== undefined && value !== false && typeof value !== 'string' && !client) {
    from.fail('redis', 'an ioredis client, the name of a @fastify/redis namespace, or false')
  }
  return value
}

function readFleet(from: OptionReader) {
  const name = from.string('name', 'app')
  if (/[{}\s]/.test(name)) from.fail('name', 'a name without braces or blanks')
  return { name, lease: from.duration('lease', { default: 10_000, min: 300 }) }
}

function readWorker(from: OptionReader) {
  return {
    ...readPort(from),
    agentPort: from.integer('agentPort', { default: undefined, max: 65_535 }),
    blockedAfter: from.duration('blockedAfter', { default: 2000, min: 50 })
  }
}

function readMetrics(from: OptionReader) {
  const registry = from.raw<Registry>('registry')
  if (registry !== undefined && typeof registry.registerMetric !== 'function') {
    from.fail('registry', 'a prom-client Registry')
  }
  return {
    path: readPath(from, 'path', '/metrics'),
    registry,
    defaults: from.boolean('defaults', true),
    public: from.boolean('public', false)
  }
}
