import type { OptionReader, Size } from '@flotilla/core'
import { IDENTITY } from './personal-reads.js'

/** The HTTP response cache, for routes with `config.cache`. */
export interface HttpOptions {
  /** The name in the Cache-Status header (RFC 9211) and of our own targeted header, `<name>-cache-control`. Default `flotilla`. */
  name?: string
  /** Responses with a larger body are passed on and not stored. Default 1 MB. */
  maxBody?: Size
  /** `Cache-Control` of responses whose handler set none, for browsers. Default `public, max-age=0, must-revalidate`. */
  cacheControl?: string | false
  /**
   * Requests that say `no-cache`, `no-store`, `max-age`, `min-fresh` or `Pragma: no-cache` are answered as if they did not, as CDNs do:
   * no client can send every request to the handler. Default false.
   */
  ignoreRequestDirectives?: boolean
  /**
   * Properties of the request, besides `session`, `user` and `cookies`, that say who sent it: a response whose request has one of them
   * read is not stored, unless its route says `shared: true`.
   */
  identity?: readonly string[]
}

export interface HttpSettings {
  readonly name: string
  readonly maxBody: number
  readonly cacheControl: string | undefined
  readonly identity: readonly string[]
  readonly ignoreRequestDirectives: boolean
}

const TOKEN = /^[!#$%&'*+.^_`|~0-9a-z-]+$/

export function readHttpOptions(options?: OptionReader): HttpSettings {
  const name = options?.string('name', 'flotilla') ?? 'flotilla'
  if (!TOKEN.test(name)) options?.fail('name', 'a lower-case HTTP token')
  const control = options?.raw<unknown>('cacheControl') ?? 'public, max-age=0, must-revalidate'
  if (control !== false && typeof control !== 'string')
    options?.fail('cacheControl', 'a header value or false')
  return {
    name,
    maxBody: options?.size('maxBody', { default: 1024 ** 2 }) ?? 1024 ** 2,
    cacheControl: control === false ? undefined : (control as string),
    ignoreRequestDirectives: options?.boolean('ignoreRequestDirectives', false) ?? false,
    identity: [...IDENTITY, ...(options?.strings('identity', []) ?? [])]
  }
}
