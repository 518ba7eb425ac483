/** What our member of Cache-Status says (RFC 9211 §2). */
export interface CacheStatus {
  readonly hit?: boolean
  /** Why the handler was asked. */
  readonly fwd?: 'bypass' | 'method' | 'uri-miss' | 'vary-miss' | 'miss' | 'request' | 'stale' | 'partial'
  readonly fwdStatus?: number
  /** Remaining freshness in milliseconds; negative when stale. */
  readonly ttl?: number
  readonly stored?: boolean
  readonly collapsed?: boolean
  /** Why it was not stored, or not looked up. */
  readonly detail?: string
}

/** Our member of the header. */
export function cacheStatus(name: string, status: CacheStatus): string {
  let value = name
  if (status.hit) value += '; hit'
  if (status.fwd) value += `; fwd=${status.fwd}`
  if (status.fwdStatus !== undefined) value += `; fwd-status=${status.fwdStatus}`
  if (status.ttl !== undefined) value += `; ttl=${Math.floor(status.ttl / 1000)}`
  if (status.stored) value += '; stored'
  if (status.collapsed) value += '; collapsed'
  if (status.detail !== undefined) value += `; detail="${status.detail}"`
  return value
}

/** @param before what a cache nearer to the origin has said */
export function joined(value: string, before: unknown): string {
  const earlier = Array.isArray(before) ? before.join(', ') : before
  return typeof earlier === 'string' && earlier !== '' ? `${earlier}, ${value}` : value
}
