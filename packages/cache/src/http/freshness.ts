import { parseCacheControl, parseTargeted, seconds, type Directives } from './cache-control.js'
import { parseHttpDate } from './http-date.js'
import type { RouteSettings } from './route.js'

/** How long a response may be used, in milliseconds. */
export interface Lifetimes {
  age: number
  /** Freshness lifetime, from when the response was made. */
  fresh: number
  swr: number
  sie: number
  shared: boolean
  strict: boolean
}

export type Judgement =
  | { storable: false; reason: string }
  | { storable: true; life: Lifetimes; vary: readonly string[]; except: readonly string[] }

export interface ResponseFacts {
  readonly status: number
  readonly headers: Record<string, number | string | string[] | undefined>
  readonly authorized: boolean
  readonly personal: boolean
  /** Request headers that any client can send and the handler has read: they must select the response. */
  readonly forwarded: ReadonlySet<string>
  readonly route: RouteSettings
  /** The freshness that the headers name is about this response: not set before the handler threw what is sent now. */
  readonly explicit: boolean
  /** In place of the route's `ttl`, by the handler; `skipped`: it is not to be stored. */
  readonly said: { readonly ttlMs: number | undefined; readonly skipped: boolean }
  /** When the handler was asked, and when it answered. */
  readonly began: number
  readonly now: number
}

/** RFC 9110 §15.1: may be given a lifetime where the response names none. */
const HEURISTIC = new Set([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
/** Statuses whose own rules are kept here: `must-understand` lets others not be stored (§5.2.2.3). */
const UNDERSTOOD = new Set([...HEURISTIC, 302, 303, 307])
/** Parts and answers to conditions: they stand for no whole (§3.3, §4.3.4). */
const NO_WHOLE = new Set([206, 304])
const HEURISTIC_FRACTION = 0.1
const HEURISTIC_MAX = 86_400_000

/** Whether and how long a response to GET may be stored by a shared cache (RFC 9111 §3, §4.2; RFC 5861; RFC 9213). */
export function judge(facts: ResponseFacts): Judgement {
  const { status, route, now } = facts
  const header = (name: string): string | undefined => {
    const value = facts.headers[name]
    return value === undefined ? undefined : Array.isArray(value) ? value.join(', ') : String(value)
  }
  const no = (reason: string): Judgement => ({ storable: false, reason })
  if (facts.personal) return no('personal')
  if (facts.said.skipped) return no('skipped')
  if (NO_WHOLE.has(status) || status < 200) return no('status')
  if (header('set-cookie') !== undefined && !route.setCookie) return no('set-cookie')

  const targeted =
    parseTargeted(header(`${route.http.name}-cache-control`)) ?? parseTargeted(header('cdn-cache-control'))
  const control = targeted ?? parseCacheControl(header('cache-control'))
  if (!control) return no('cache-control')
  const understood = control.has('must-understand')
  if (understood && !UNDERSTOOD.has(status)) return no('status')
  if (control.has('no-store') && !understood) return no('no-store')
  if (control.get('private') === true || control.get('private') === '') return no('private')
  // To ask the handler at every use is what happens without storing it, but with a validator it may answer 304.
  const validated = control.get('no-cache') === true || control.get('no-cache') === ''
  if (validated && header('etag') === undefined && header('last-modified') === undefined)
    return no('no-cache')
  const shared = control.has('public') || control.has('s-maxage') || control.has('must-revalidate')
  if (facts.authorized && !shared) return no('authorization')

  if (hasNonce(header)) return no('nonce')
  const vary = varyOf(header)
  if (!vary) return no('vary')
  for (const name of facts.forwarded) {
    if (!vary.includes(name) && !route.vary.includes(name)) return no('forwarded')
  }
  const named = explicitFreshness(control, targeted ? undefined : header('expires'), header('date'), now)
  const explicit = facts.explicit ? named : undefined
  const fresh = validated ? 0 : (explicit ?? assumed(facts, control, header('last-modified')))
  if (fresh === undefined) return no(UNDERSTOOD.has(status) ? 'no freshness' : 'status')

  const life = lifetimes(facts, control, { fresh, age: initialAge(facts, header('date')), shared, validated })
  if (!validated && life.fresh <= life.age && life.swr === 0 && life.sie === 0) return no('stale')
  return {
    storable: true,
    life,
    vary,
    except: [
      ...fieldsOf(control, 'private'),
      ...fieldsOf(control, 'no-cache'),
      ...(route.setCookie ? [] : ['set-cookie'])
    ]
  }
}

function lifetimes(
  { route }: ResponseFacts,
  control: Directives,
  known: { fresh: number; age: number; shared: boolean; validated: boolean }
): Lifetimes {
  const { fresh, age, shared, validated } = known
  const forbidden = validated || control.has('must-revalidate') || control.has('proxy-revalidate')
  const strict = forbidden || control.has('s-maxage')
  const swr = seconds(control, 'stale-while-revalidate') ?? (strict ? 0 : route.swr)
  const sie = seconds(control, 'stale-if-error') ?? (strict ? 0 : route.grace)
  return { age, fresh, swr: forbidden ? 0 : swr, sie: forbidden ? 0 : sie, shared, strict }
}

function explicitFreshness(
  control: Directives,
  expires: string | undefined,
  date: string | undefined,
  now: number
): number | undefined {
  const named = seconds(control, 's-maxage') ?? seconds(control, 'max-age')
  if (named !== undefined) return named
  if (expires === undefined) return undefined
  const until = parseHttpDate(expires)
  // RFC 9111 §5.3: an invalid date, "0" above all, means already expired.
  if (until === undefined) return 0
  return Math.max(0, until - (parseHttpDate(date) ?? now))
}

/**
 * How old the response is when it comes, if the handler passes on what it has from elsewhere (RFC 9111 §4.2.3). Of a list
 * the first Age counts; one that cannot be read is ignored (§5.1).
 */
function initialAge({ headers, began, now }: ResponseFacts, date: string | undefined): number {
  const apparent = Math.max(0, now - (parseHttpDate(date) ?? now))
  const given = String([headers['age']].flat()[0] ?? '')
    .split(',', 1)[0]!
    .trim()
  // Date knows no fractions of a second.
  if (!/^\d+$/.test(given)) return apparent - (apparent % 1000)
  return Math.max(apparent, Math.min(Number(given), 2 ** 31) * 1000 + now - began)
}

/** The `ttl` of the handler or the route, or a fraction of the time since the last change (RFC 9111 §4.2.2). */
function assumed(
  { status, route, said, now }: ResponseFacts,
  control: Directives,
  lastModified: string | undefined
): number | undefined {
  const ttl = said.ttlMs ?? route.ttl
  if (ttl !== undefined) return route.statuses.has(status) ? ttl : undefined
  const modified = parseHttpDate(lastModified)
  if (modified === undefined || !(HEURISTIC.has(status) || control.has('public'))) return undefined
  const since = now - modified
  return since > 0 ? Math.min(since * HEURISTIC_FRACTION, HEURISTIC_MAX) : undefined
}

/**
 * The request headers that the response was chosen by; `undefined` for `*`. An encoded body and a CORS header that names
 * an origin are taken to vary by what they answer even where the handler forgot to say so.
 */
function varyOf(header: (name: string) => string | undefined): string[] | undefined {
  const names = new Set(
    (header('vary') ?? '')
      .split(',')
      .map((name) => name.trim().toLowerCase())
      .filter((name) => name !== '')
  )
  if (names.has('*')) return undefined
  const encoding = header('content-encoding')
  if (encoding !== undefined && encoding !== 'identity') names.add('accept-encoding')
  const origin = header('access-control-allow-origin')
  if (origin !== undefined && origin !== '*') names.add('origin')
  return [...names]
}

/** Content that can run scripts: a nonce in it and one in the policy belong together. */
const DOCUMENT = /html|xml|svg/i

/** Whether the response's content security policy allows scripts by a nonce: it is good for one response (CSP §7.1). */
function hasNonce(header: (name: string) => string | undefined): boolean {
  if (!DOCUMENT.test(header('content-type') ?? 'text/html')) return false
  return ['content-security-policy', 'content-security-policy-report-only'].some((name) =>
    header(name)?.includes("'nonce-")
  )
}

/** The header fields that `private="…"` or `no-cache="…"` keeps out of the cache. */
function fieldsOf(control: Directives, name: string): string[] {
  const value = control.get(name)
  return typeof value === 'string' ? value.split(',').map((field) => field.trim().toLowerCase()) : []
}

/** Why a response is not stored that another visitor's request may not have. */
const DEPENDS_ON_VISITOR: ReadonlySet<string> = new Set([
  'nonce',
  'personal',
  'authorization',
  'set-cookie',
  'forwarded'
])

/** Whether a response that cannot be stored shows that the stored one is no longer true; an error shows nothing. */
export function replacesStored(status: number, reason: string): boolean {
  return (status < 400 || status === 404 || status === 410) && !DEPENDS_ON_VISITOR.has(reason)
}
