import type { Carrier } from './carrier.js'

/**
 * A response header that the client sends back in its next requests: for clients without a cookie jar. Several
 * tokens, from parallel answers, go in one header, separated by commas.
 */
export function headerCarrier(name: string): Carrier {
  return {
    isEmpty: (request) => request.headers[name] === undefined,
    load(request) {
      const value = request.headers[name]
      if (value === undefined) return []
      const text = Array.isArray(value) ? value.join(',') : value
      return text
        .split(',')
        .map((one) => one.trim())
        .filter((one) => one !== '')
    },
    store(_request, reply, token) {
      reply.header(name, token)
    }
  }
}
