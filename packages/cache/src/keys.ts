import { createHash } from 'node:crypto'

/** A longer key is stored under its SHA-256: Redis keys are compared and sent whole. */
const MAX_KEY_BYTES = 200

/** What tags of the paths of responses begin with. */
export const PATH_TAG = 'uri:'

/**
 * The names of our keys in Redis. What belongs to one entry shares a hash tag, so that it lies in one
 * Cluster slot; braces in users' keys are escaped, since they would move or empty that tag.
 *
 * | key | what it holds |
 * | --- | --- |
 * | `c:<ns>{k}` | the entry: header and payload |
 * | `l:<ns>{k}` | the lease of whoever computes it now |
 * | `t:{tag}` | when the tag was last invalidated |
 * | `n:{ns}` | when the namespace was last cleared |
 */
export interface KeyNames {
  entry(ns: string, key: string): string
  /** Of the entry with this key in Redis. */
  lease(entryKey: string): string
  tag(tag: string): string
  generation(ns: string): string
  /** What stands before all of them. */
  readonly prefix: string
  /** The pub/sub channel that carries fills for which a caller waits, as one subscribes to it. */
  readonly filled: string
}

export function createKeyNames(prefix: string): KeyNames {
  const inside = (ns: string, key: string): string =>
    ns === '' ? `{${safe(key)}}` : `${safe(ns)}:{${safe(key)}}`
  return {
    entry: (ns, key) => `${prefix}c:${inside(ns, key)}`,
    lease: (entryKey) => `${prefix}l:${entryKey.slice(prefix.length + 2)}`,
    tag: (tag) => `${prefix}t:{${safe(tag)}}`,
    generation: (ns) => `${prefix}n:{${safe(ns) || '*'}}`,
    prefix,
    filled: `${prefix}filled`
  }
}

const PLAIN = /^[^%{}:#*\uD800-\uDFFF][^%{}:\uD800-\uDFFF]*$/

function safe(text: string): string {
  if (text.length <= MAX_KEY_BYTES / 3 && PLAIN.test(text)) return text
  if (text.length > MAX_KEY_BYTES || Buffer.byteLength(text) > MAX_KEY_BYTES) {
    return `#${createHash('sha256').update(text).digest('base64url')}`
  }
  // A leading '#' or '*' would be taken for a digest or for the root; a lone surrogate has no UTF-8.
  const text8 = /\p{Surrogate}/u.test(text) ? JSON.stringify(text) : text
  return text8.replaceAll(/[%{}:]|^[#*]/g, (one) => `%${one.charCodeAt(0).toString(16).padStart(2, '0')}`)
}
