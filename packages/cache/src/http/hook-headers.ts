import type { FastifyReply } from 'fastify'

type Headers = Record<string, number | string | string[] | undefined>

/** Response headers that say what the body is or how long it holds, whichever hook sets them. */
const OF_THE_BODY =
  /^(?:content-.*|etag|last-modified|vary|.*cache-control|cache-tag|expires|date|age|location|link|accept-ranges|.*digest)$/

/**
 * Separates the response headers of the handler, which are stored, from those of hooks, which are not: the hooks run for
 * every request, and what they set for one visitor must not reach another.
 *
 * Of a hook are headers that stand unchanged since before the handler ran, and those that `onSend` hooks have set or
 * changed, other than {@link OF_THE_BODY}.
 */
export class HookHeaders {
  readonly #before: Headers
  #sent: Headers

  /** Made before the handler runs. */
  constructor(reply: FastifyReply) {
    this.#before = reply.getHeaders()
    this.#sent = this.#before
  }

  /** The handler has answered; the `onSend` hooks are about to run. */
  sending(reply: FastifyReply): void {
    this.#sent = reply.getHeaders()
  }

  /**
   * A hook that encodes the body, as `@fastify/compress` does, leaves it the `ETag` of another representation. That of the
   * handler is made weak; that of a hook is taken off, so that one of the encoded bytes can be set (RFC 9110 §8.8.3.3).
   */
  tellRepresentationsApart(reply: FastifyReply): void {
    const etag = reply.getHeader('etag')
    if (etag === undefined || this.#sent['content-encoding'] !== undefined) return
    if (!reply.hasHeader('content-encoding')) return
    if (same(etag, this.#sent['etag'])) reply.header('etag', weak(String(etag)))
    else reply.removeHeader('etag')
  }

  /** What of these is not of a hook. */
  without(headers: Headers): Headers {
    const own: Headers = {}
    for (const [name, value] of Object.entries(headers)) {
      if (value === undefined || same(value, this.#before[name])) continue
      if (same(value, this.#sent[name]) || OF_THE_BODY.test(name)) own[name] = value
    }
    return own
  }
}

function same(a: Headers[string], b: Headers[string]): boolean {
  return a === b || (a !== undefined && b !== undefined && String(a) === String(b))
}

export function weak(etag: string): string {
  return etag.startsWith('W/') ? etag : `W/${etag}`
}
