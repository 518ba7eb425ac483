import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyReply } from 'fastify'
import { parseHttpDate } from './http-date.js'
import { headerOf, type StoredResponse } from './stored-response.js'

/** The conditions of a request, taken off it so that the handler makes a whole response that can be stored. */
export interface Conditions {
  readonly ifNoneMatch: string | undefined
  readonly ifModifiedSince: string | undefined
  readonly range: string | undefined
  readonly ifRange: string | undefined
  /** For the handler alone (RFC 9111 §4.3.2). */
  readonly ifMatch: string | undefined
  readonly ifUnmodifiedSince: string | undefined
}

const NONE: Conditions = {
  ifNoneMatch: undefined,
  ifModifiedSince: undefined,
  range: undefined,
  ifRange: undefined,
  ifMatch: undefined,
  ifUnmodifiedSince: undefined
}

const NAMES = [
  'if-none-match',
  'if-modified-since',
  'if-match',
  'if-unmodified-since',
  'range',
  'if-range'
] as const

export function conditionsOf(headers: IncomingHttpHeaders): Conditions {
  if (NAMES.every((name) => headers[name] === undefined)) return NONE
  return {
    ifNoneMatch: headers['if-none-match'],
    ifModifiedSince: headers['if-modified-since'],
    range: headers.range,
    ifRange: headers['if-range'] as string | undefined,
    ifMatch: headers['if-match'],
    ifUnmodifiedSince: headers['if-unmodified-since']
  }
}

export function strip(headers: IncomingHttpHeaders): void {
  for (const name of NAMES) if (name in headers) delete headers[name]
}

/** What conditions are about: a stored response, or one that is being sent. */
export type Conditional = Pick<StoredResponse, 'status' | 'headers' | 'etag' | 'modified'>

/** Whether 412 answers the request (RFC 9110 §13.2.2): If-Match compares strongly and decides alone if it is present. */
export function preconditionFails(
  { ifMatch, ifUnmodifiedSince }: Conditions,
  { etag, modified }: Conditional
): boolean {
  if (ifMatch !== undefined) {
    if (ifMatch.trim() === '*') return false
    return !(ifMatch.match(ETAGS) ?? []).some((one) => one === etag && !one.startsWith('W/'))
  }
  const since = parseHttpDate(ifUnmodifiedSince)
  const changed = parseHttpDate(modified)
  return since !== undefined && changed !== undefined && changed > since
}

const ETAGS = /(?:W\/)?"[^"]*"/g

/** Whether 304 answers the request (RFC 9111 §4.3.2): If-None-Match decides alone if it is present. */
export function notModified({ ifNoneMatch, ifModifiedSince }: Conditions, stored: Conditional): boolean {
  if (ifNoneMatch === undefined && ifModifiedSince === undefined) return false
  if (stored.status !== 200) return false
  if (ifNoneMatch !== undefined) {
    if (ifNoneMatch.trim() === '*') return true
    if (stored.etag === undefined) return false
    return (ifNoneMatch.match(ETAGS) ?? []).some((one) => weakMatch(one, stored.etag))
  }
  const since = parseHttpDate(ifModifiedSince)
  if (since === undefined) return false
  const modified = parseHttpDate(stored.modified)
  if (modified !== undefined) return modified <= since
  // Date stands in for Last-Modified. Not of the same second: a second response may have been made within it.
  const made = parseHttpDate(headerOf(stored.headers, 'date'))
  return made !== undefined && made < since
}

/** RFC 9110 §8.8.3.2: one of them may be weak. */
function weakMatch(a: string, b: string | undefined): boolean {
  return b !== undefined && a.replace(/^W\//, '') === b.replace(/^W\//, '')
}

/** One part takes no more; RFC 9110 §14.2 lets a server ignore Range. */
const MAX_RANGE = 100

export interface ByteRange {
  readonly start: number
  /** Inclusive. */
  readonly end: number
}

/**
 * The part that is asked for; `undefined` where the whole answers (no range, several, unreadable, If-Range does not
 * match), `'unsatisfiable'` where there is no such part (RFC 9110 §14).
 */
export function rangeOf(
  { range, ifRange }: Conditions,
  stored: Conditional & Pick<StoredResponse, 'body'>
): ByteRange | 'unsatisfiable' | undefined {
  if (range === undefined || range.length > MAX_RANGE || stored.status !== 200) return undefined
  if (ifRange !== undefined && !rangeStands(ifRange, stored)) return undefined
  const match = /^\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*$/i.exec(range)
  if (!match) return undefined
  const [, first, last] = match as unknown as [string, string, string]
  const length = stored.body.length
  if (first === '') {
    if (last === '') return undefined
    const suffix = Math.min(Number(last), length)
    return suffix === 0 ? 'unsatisfiable' : { start: length - suffix, end: length - 1 }
  }
  const start = Number(first)
  if (last !== '' && Number(last) < start) return undefined
  if (start >= length) return 'unsatisfiable'
  return { start, end: last === '' ? length - 1 : Math.min(Number(last), length - 1) }
}

/** If-Range compares strongly (RFC 9110 §13.1.5). */
function rangeStands(ifRange: string, { etag, modified }: Conditional): boolean {
  if (ifRange.startsWith('"')) return etag === ifRange
  return !ifRange.startsWith('W/') && modified !== undefined && ifRange === modified
}

/** Whether a 304 is about this stored response, as far as it says; one that names nothing answers what was asked. */
export function namesSame(reply: FastifyReply, { etag, modified }: StoredResponse): boolean {
  const named = reply.getHeader('etag')
  if (named !== undefined)
    return named === etag || (String(named).startsWith('W/') && weakMatch(String(named), etag))
  const since = reply.getHeader('last-modified')
  return since === undefined || modified === undefined || since === modified
}

export function hasValidators(reply: FastifyReply): boolean {
  return reply.hasHeader('etag') || reply.hasHeader('last-modified')
}
