import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import type { FastifyReply } from 'fastify'

/**
 * A payload of the Fetch API as one of Node.js: of a `Response` the status and headers are put on the reply, as Fastify does
 * after all hooks have run; a `ReadableStream` becomes a `Readable`. Anything else is handed back, a body that is used up
 * included: Fastify refuses it.
 */
function fromWeb(reply: FastifyReply, payload: unknown): unknown {
  if (typeof payload !== 'object' || payload === null) return payload
  if (isResponse(payload)) {
    if (payload.bodyUsed) return payload
    reply.code(payload.status)
    for (const [name, value] of payload.headers) reply.header(name, value)
    return payload.body === null ? null : fromWeb(reply, payload.body)
  }
  if (!isWebStream(payload) || payload.locked) return payload
  return Readable.fromWeb(payload)
}

function isResponse(payload: object): payload is Response {
  return Object.prototype.toString.call(payload) === '[object Response]'
}

function isWebStream(payload: object): payload is ReadableStream {
  return typeof (payload as { getReader?: unknown }).getReader === 'function'
}

/** The tags in `Cache-Tag`. */
export function tagsOf(reply: FastifyReply): string[] {
  const value = reply.getHeader('cache-tag')
  const text = Array.isArray(value) ? value.join(',') : typeof value === 'string' ? value : ''
  return text
    .split(',')
    .map((tag) => tag.trim())
    .filter((tag) => tag !== '')
}

/** The bytes of a payload that is complete; `undefined` for a stream. */
export function bodyOf(payload: unknown): Buffer | undefined {
  if (payload === undefined || payload === null) return Buffer.alloc(0)
  if (typeof payload === 'string') return Buffer.from(payload)
  // A copy: the handler may use its buffer again.
  if (payload instanceof Uint8Array) return Buffer.from(payload)
  return undefined
}

export function isStream(payload: unknown): payload is Readable {
  return typeof payload === 'object' && payload !== null && typeof (payload as Readable).pipe === 'function'
}

/** Has the reply report that it is being sent, with a payload of Node.js, or that the handler writes to the socket by itself. */
export function intercept(
  reply: FastifyReply,
  onSend: (payload: unknown) => void,
  onHijack: () => void
): void {
  const send = reply.send.bind(reply)
  const hijack = reply.hijack.bind(reply)
  reply.send = (payload?: unknown) => {
    const body = fromWeb(reply, payload)
    onSend(body)
    return send(body)
  }
  reply.hijack = () => {
    onHijack()
    return hijack()
  }
}
