import type { FastifyInstance, FastifyRequest } from 'fastify'
import { PATH_TAG } from '../keys.js'

/** How the router finds a route: URLs that it takes for one must be invalidated together. */
interface RouterRules {
  readonly caseSensitive: boolean
  readonly ignoreDuplicateSlashes: boolean
  readonly ignoreTrailingSlash: boolean
  readonly useSemicolonDelimiter: boolean
}

const ORIGIN = /^https?:\/\/([^/?#]*)/i
const ESCAPES = /(?:%[0-9a-f]{2})+/gi
const UNRESERVED = /[\w.~-]/

/**
 * The one identity of a path that has several spellings: percent-encoding, the absolute form of a request target
 * (RFC 9112 §3.2.2), and what the router ignores. A write to any spelling invalidates all of them. The key of a response
 * is finer, see {@link equivalent}: a handler may see the spelling, so that only what RFC 3986 calls equivalent is shared.
 */
export class UrlIdentity {
  readonly #rules: RouterRules

  constructor({ initialConfig }: FastifyInstance) {
    const router = (initialConfig.routerOptions ?? {}) as Partial<RouterRules>
    const given = initialConfig as Partial<RouterRules>
    const either = (name: keyof RouterRules): boolean => given[name] === true || router[name] === true
    this.#rules = {
      caseSensitive: given.caseSensitive !== false && router.caseSensitive !== false,
      ignoreDuplicateSlashes: either('ignoreDuplicateSlashes'),
      ignoreTrailingSlash: either('ignoreTrailingSlash'),
      useSemicolonDelimiter: either('useSemicolonDelimiter')
    }
  }

  /** The path of a request target, a URL or a route, in the form that all its spellings have in common. */
  path(url: string): string {
    const { caseSensitive, ignoreDuplicateSlashes, ignoreTrailingSlash, useSemicolonDelimiter } = this.#rules
    const target = url.replace(ORIGIN, '')
    const end = target.search(useSemicolonDelimiter ? /[?#;]/ : /[?#]/)
    let path = (end < 0 ? target : target.slice(0, end)).replaceAll(ESCAPES, decoded)
    if (!path.startsWith('/')) path = `/${path}`
    if (ignoreDuplicateSlashes) path = path.replaceAll(/\/{2,}/g, '/')
    if (ignoreTrailingSlash && path.length > 1 && path.endsWith('/')) path = path.slice(0, -1)
    return caseSensitive ? path : path.toLowerCase()
  }

  /** What all queries of one path have in common, in any scheme: unsafe methods invalidate it. */
  tag(host: string, url: string): string {
    return `${PATH_TAG}${hostIdentity(host)}${this.path(url)}`
  }

  /** The tags of the target of a request: by what the handler sees, what the client sent, and what the target itself names. */
  tags({ host, raw, originalUrl }: FastifyRequest): string[] {
    const url = raw.url ?? '/'
    const tags = new Set([this.tag(host, url)])
    if (originalUrl !== url) tags.add(this.tag(host, originalUrl))
    const authority = ORIGIN.exec(url)?.[1]
    if (authority) tags.add(this.tag(authority, url))
    return [...tags]
  }
}

/** A host without letter case, default ports and the root's dot. Of which scheme the port is the default depends on the proxies. */
export function hostIdentity(host: string): string {
  return host
    .toLowerCase()
    .replace(/:(?:80|443)$/, '')
    .replace(/\.$/, '')
}

/** The URL with the escapes that RFC 3986 §6.2.2 calls equivalent in one form: upper-case, and none of unreserved characters. */
export function equivalent(url: string): string {
  if (!url.includes('%')) return url
  return url.replaceAll(/%[0-9a-f]{2}/gi, (escape) => {
    const character = String.fromCharCode(Number.parseInt(escape.slice(1), 16))
    return UNRESERVED.test(character) ? character : escape.toUpperCase()
  })
}

function decoded(escapes: string): string {
  try {
    return decodeURIComponent(escapes)
  } catch {
    // No text: the router refuses it as a path, but a header may name it.
    return escapes.toLowerCase()
  }
}
