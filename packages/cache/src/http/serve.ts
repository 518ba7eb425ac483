import type { FastifyReply } from 'fastify'
import { notModified, preconditionFails, rangeOf, type Conditional, type Conditions } from './conditional.js'
import { bodyOf, isStream } from './payload.js'
import type { RouteSettings } from './route.js'
import { weak } from './hook-headers.js'
import { ageOf, headerOf, type StoredResponse } from './stored-response.js'

/** What a 304 carries (RFC 9110 §15.4.5) is all but what describes a body. */
const BODY_HEADERS = new Set(['content-type', 'content-encoding', 'content-language', 'content-range'])

/**
 * Puts a stored response on the reply, as a whole, a part or a 304, and returns the payload.
 *
 * @param over replaces headers that are already there: those of an error that is not shown. Otherwise what this
 *   request's own hooks have set, such as a request id, stays.
 */
export function applyStored(
  reply: FastifyReply,
  stored: StoredResponse,
  conditions: Conditions,
  route: RouteSettings,
  now: number,
  over = false
): Buffer | null {
  const unchanged = notModified(conditions, stored)
  if (over) reply.removeHeader('cache-control')
  for (const [name, value] of stored.headers) {
    if (unchanged && BODY_HEADERS.has(name)) continue
    if (!reply.hasHeader(name)) reply.header(name, value)
    else if (name === 'vary') addVary(reply, value)
    else if (over) reply.header(name, value)
  }
  controlBrowsers(reply, route)
  reply.header('age', Math.floor(ageOf(stored, now) / 1000))
  if (unchanged) {
    reply.code(304)
    return null
  }
  reply.code(stored.status)
  return part(reply, stored, conditions)
}

/** `Cache-Control` where the handler set none. It is not stored: a 304 would be judged by it as if the handler had said it. */
export function controlBrowsers(reply: FastifyReply, { http }: RouteSettings): void {
  if (http.cacheControl !== undefined && !reply.hasHeader('cache-control'))
    reply.header('cache-control', http.cacheControl)
}

/** Says that the response varies by these as well: a hook has named its own, the handler others. */
export function addVary(reply: FastifyReply, more: string | string[]): void {
  const names = new Map<string, string>()
  for (const name of [reply.getHeader('vary') ?? [], more].flat().join(',').split(',')) {
    const key = name.trim().toLowerCase()
    if (key !== '' && !names.has(key)) names.set(key, name.trim())
  }
  reply.header('vary', [...names.values()].join(', '))
}

/** The body or the range of it that was asked for, with the status and headers that say so. */
export function part(
  reply: FastifyReply,
  stored: Conditional & Pick<StoredResponse, 'body'>,
  conditions: Conditions
): Buffer | null {
  const { body } = stored
  if (stored.status === 200) reply.header('accept-ranges', 'bytes')
  if (reply.request.method !== 'GET') return body
  const range = rangeOf(conditions, stored)
  if (range === undefined) return stored.status === 204 ? null : body
  if (range === 'unsatisfiable') {
    reply.code(416).header('content-range', `bytes */${body.length}`).removeHeader('content-encoding')
    return null
  }
  reply.code(206).header('content-range', `bytes ${range.start}-${range.end}/${body.length}`)
  return body.subarray(range.start, range.end + 1)
}

/**
 * Answers the conditions of a request whose handler did not see them and whose response turned out not to be stored: as a
 * handler does that knows them. A part of a stream is not cut out (RFC 9110 §14.2 lets a server send the whole).
 */
export function answerUnstored(reply: FastifyReply, payload: unknown, conditions: Conditions): unknown {
  if (reply.statusCode !== 200 || Object.values(conditions).every((one) => one === undefined)) return payload
  const text = (name: string): string | undefined => {
    const value = reply.getHeader(name)
    return value === undefined ? undefined : String(value)
  }
  const date = text('date')
  const facts: Conditional = {
    status: 200,
    headers: date === undefined ? [] : [['date', date]],
    etag: text('etag'),
    modified: text('last-modified')
  }
  const status = preconditionFails(conditions, facts) ? 412 : notModified(conditions, facts) ? 304 : 200
  if (status !== 200) {
    if (isStream(payload)) payload.destroy()
    for (const name of ['content-length', 'content-type', 'content-encoding']) reply.removeHeader(name)
    reply.code(status)
    return null
  }
  const body = conditions.range === undefined ? undefined : bodyOf(payload)
  if (!body) return payload
  reply.removeHeader('content-length')
  return part(reply, { ...facts, body }, conditions)
}

/** After the hooks of a stored response: what they and Fastify made of it that would not be true of it. */
export function undoHooks(reply: FastifyReply, { headers }: StoredResponse, typed: boolean): void {
  // Fastify gives a body of bytes a media type if it has none.
  if (!typed) reply.removeHeader('content-type')
  const etag = reply.getHeader('etag')
  const encoded = reply.hasHeader('content-encoding') && headerOf(headers, 'content-encoding') === undefined
  if (encoded && etag !== undefined) reply.header('etag', weak(String(etag)))
}
