import { createHash } from 'node:crypto'
import { FLOTILLA_WS_ERR_TOO_LARGE, FLOTILLA_WS_ERR_UNSERIALISABLE } from './errors.js'
import type { InternalPublishOptions } from './publishing.js'

/**
 * A `message` frame's JSON up to where the publish script appends the offset and the epoch.
 *
 * @throws FLOTILLA_WS_ERR_UNSERIALISABLE, FLOTILLA_WS_ERR_TOO_LARGE
 */
export function messageHead(
  channel: string,
  data: unknown,
  { consistency, idempotencyKey, from }: InternalPublishOptions,
  maxPayload: number
): string {
  let json: string | undefined
  try {
    json = JSON.stringify(data)
  } catch (cause) {
    throw Object.assign(new FLOTILLA_WS_ERR_UNSERIALISABLE(channel), { cause })
  }
  // undefined, functions and symbols have no JSON.
  if (json === undefined) throw new FLOTILLA_WS_ERR_UNSERIALISABLE(channel)
  const bytes = Buffer.byteLength(json)
  if (bytes > maxPayload) throw new FLOTILLA_WS_ERR_TOO_LARGE(bytes, maxPayload)
  const token = consistency === undefined ? '' : `,"token":${JSON.stringify(consistency)}`
  const key = idempotencyKey === undefined ? '' : `,"key":"${digest(idempotencyKey)}"`
  const sender = from === undefined ? '' : `,"from":${JSON.stringify(from)}`
  return `{"type":"message","channel":${JSON.stringify(channel)}${key}${sender}${token},"data":${json}`
}

/**
 * What clients see of an idempotency key. A publish that a failover lost after it was delivered comes again
 * under the same key and another offset; by this the client knows it.
 */
function digest(key: string): string {
  return createHash('sha256').update(key).digest('base64url').slice(0, 12)
}
