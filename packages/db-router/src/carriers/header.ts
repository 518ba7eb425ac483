import type { ConsistencyToken } from '@flotilla/core'
import type { FastifyRequest } from 'fastify'
import type { Carrier } from './carrier.js'

/**
 * A response header that the client sends back in its next requests: for clients without a cookie jar. Several
 * tokens, from parallel answers, go in one header, separated by commas.
 */
export function headerCarrier(name: string): Carrier {
  const load = (request: FastifyRequest): ConsistencyToken[] => {
    const value = request.headers[name]
    if (value === undefined) return []
    const text = Array.isArray(value) ? value.join(',') : value
    return text
      .split(',')
      .map((one) => one.trim())
      .filter((one) => one !== '')
  }
  return {
    isEmpty: (request) => request.headers[name] === undefined,
    load,
    peek: load,
    store(_request, reply, token) {
      reply.header(name, token)
    }
  }
}
