import { markPersonal } from '@flotilla/core'
import type { FastifyRequest } from 'fastify'
import { isProxied } from './request-key.js'

/** Where the plugins of the ecosystem put who sent the request. */
export const IDENTITY: readonly string[] = ['cookies', 'session', 'user']
/** Request headers that say who sent it. */
const CREDENTIALS: ReadonlySet<unknown> = new Set(['cookie', 'authorization'])
/** Request headers that any client can send, and that frameworks and proxies take for parts of the URL. */
const FORWARDED: ReadonlySet<unknown> = new Set([
  'forwarded',
  'x-forwarded-host',
  'x-forwarded-port',
  'x-forwarded-prefix',
  'x-forwarded-proto',
  'x-forwarded-scheme',
  'x-forwarded-server',
  'x-host',
  'x-original-host'
])

/** Plugins whose per-user data responses may depend on. */
export const IDENTITY_PLUGINS = [
  '@fastify/session',
  '@fastify/secure-session',
  '@fastify/jwt',
  '@fastify/passport',
  '@mgcrea/fastify-session'
] as const

/** Of these, the ones from which Fastify makes `request.host` and `request.protocol` behind a trusted proxy: the key has them. */
const PROXIED: ReadonlySet<unknown> = new Set(['x-forwarded-host', 'x-forwarded-proto'])

interface Reads {
  /** The present reader: the app; `onSend` hooks, those of session plugins among them; or the cache itself. */
  by: 'app' | 'hooks' | 'cache'
  readonly headers: Set<string>
}

const reads = new WeakMap<FastifyRequest, Reads>()

/**
 * From here on a read of one of these properties of the request marks it as personal. Called after the `onRequest` hooks,
 * in which plugins set them.
 */
export function watchIdentity(request: FastifyRequest, names: readonly string[]): void {
  for (const name of names) {
    if (Object.getOwnPropertyDescriptor(request, name)?.writable) watch(request, request, name)
  }
}

/** What a hook found out about the user stands in `request.user`: the handler need not read a cookie to know. */
export function isIdentified(request: FastifyRequest): boolean {
  if (!Object.hasOwn(request, 'user')) return false
  noteReader(request, 'cache')
  const { user } = request as { user?: unknown }
  noteReader(request, 'app')
  return Boolean(user)
}

/**
 * While the handler runs, a read of credentials marks the request as personal, too, and reads of forwarding headers are
 * noted. That a header is absent is read as well: a page for a visitor without a cookie is not for one with a cookie. So
 * is a list or a copy of all headers.
 */
export function watchHandler(request: FastifyRequest, names: readonly string[]): void {
  const { raw } = request
  watchIdentity(request, names)
  const middleware = raw as unknown as Record<string, unknown>
  for (const name of names) if (Object.hasOwn(middleware, name)) watch(request, middleware, name)
  watch(request, middleware, 'rawHeaders')
  const noted = readsOf(request)
  const proxied = isProxied(request)
  const get = (target: typeof raw.headers, name: string | symbol): unknown => {
    if (CREDENTIALS.has(name)) {
      noteRead(request, noted, get)
    } else if (FORWARDED.has(name) && target[name as string] !== undefined) {
      if (!proxied || !PROXIED.has(name)) noted.headers.add(name as string)
    }
    return target[name as string]
  }
  const ownKeys = (target: typeof raw.headers): (string | symbol)[] => {
    noteRead(request, noted, ownKeys)
    return Reflect.ownKeys(target)
  }
  const headers = new Proxy(raw.headers, { get, ownKeys })
  Object.defineProperty(raw, 'headers', {
    configurable: true,
    enumerable: true,
    writable: true,
    value: headers
  })
}

/** From now on reads are by these. */
export function noteReader(request: FastifyRequest, by: Reads['by']): void {
  const noted = reads.get(request)
  if (noted) noted.by = by
}

/** The forwarding headers that the handler has read. */
export function forwardedReads(request: FastifyRequest): ReadonlySet<string> {
  return reads.get(request)?.headers ?? NONE
}

const NONE: ReadonlySet<string> = new Set()

function readsOf(request: FastifyRequest): Reads {
  let noted = reads.get(request)
  if (!noted) reads.set(request, (noted = { by: 'app', headers: new Set() }))
  return noted
}

/** Makes a property report its reads. */
function watch(request: FastifyRequest, target: object, name: string): void {
  const noted = readsOf(request)
  let value = (target as Record<string, unknown>)[name]
  const get = (): unknown => {
    noteRead(request, noted, get)
    return value
  }
  Object.defineProperty(target, name, {
    configurable: true,
    enumerable: true,
    get,
    set: (next: unknown) => {
      value = next
    }
  })
}

function noteRead(request: FastifyRequest, { by }: Reads, getter: (...args: never[]) => unknown): void {
  if (by === 'app' || (by === 'hooks' && !isReadByPlugin(getter))) markPersonal(request)
}

/** Where the plugins lie that read in their `onSend` hooks what they store and send as a cookie. */
const PLUGIN_FILE =
  /[\\/](?:@fastify[\\/](?:session|secure-session|cookie|jwt|passport)|@mgcrea[\\/]fastify-session)[\\/]/

/** Whether the code that reads is a plugin's own. In a bundle that cannot be known: the read then counts as the app's. */
function isReadByPlugin(getter: (...args: never[]) => unknown): boolean {
  const { stackTraceLimit } = Error
  const reader: { stack?: string } = {}
  Error.stackTraceLimit = 1
  Error.captureStackTrace(reader, getter)
  Error.stackTraceLimit = stackTraceLimit
  return PLUGIN_FILE.test(reader.stack ?? '')
}
