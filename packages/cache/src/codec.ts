import { Packr } from 'msgpackr'
import { promisify } from 'node:util'
import { constants, gunzip, gunzipSync, gzip } from 'node:zlib'
import { CorruptEntryError } from './errors.js'
import { refuseLoss } from './json-loss.js'

/** Turns values into bytes for Redis and back. */
export interface Codec {
  /** Written beside each entry; an entry of another codec is a miss. At most 32 characters. */
  readonly name: string
  /** @throws anything, for a value that it cannot carry; the caller gets FLOTILLA_CACHE_ERR_VALUE with it as cause */
  encode(value: unknown): Buffer | string
  /** @throws anything, for bytes that it did not write: the entry then counts as missing */
  decode(bytes: Buffer): unknown
}

/**
 * Plain data as JSON. A Date comes back as text. What would come back as something useless, such as a Map, which JSON turns
 * into `{}`, is refused.
 */
export const jsonCodec: Codec = {
  name: 'json',
  encode(value) {
    const text: unknown = stringify(value)
    if (typeof text !== 'string') throw new TypeError(`JSON has no form for a ${typeof value}`)
    refuseLoss(value)
    return text
  },
  decode: (bytes) => JSON.parse(bytes.toString('utf8')) as unknown
}

/** MessagePack: smaller and quicker than JSON for large values; Date, Map, Set, BigInt and bytes survive. */
export function msgpackCodec(): Codec {
  // Records tell objects from Maps; their shape is written with each value, since another process must read it.
  const packr = new Packr({ useRecords: true, moreTypes: true, copyBuffers: true })
  return {
    name: 'msgpack',
    encode: (value) => packr.pack(value),

    decode: (bytes) => packr.unpack(bytes) as unknown
  }
}

function stringify(value: unknown): unknown {
  try {
    return JSON.stringify(value)
  } catch (error) {
    // It names no place: refuseLoss does, unless a circle is the reason.
    if (error instanceof TypeError && error.message.includes('BigInt')) refuseLoss(value)
    throw error
  }
}

const gzipAsync = promisify(gzip)
const gunzipAsync = promisify(gunzip)
/** Below this, inflating on the spot costs less than a trip to the thread pool. */
const SYNC_INFLATE_BYTES = 32 * 1024
/** What an entry may inflate to: a bound against a crafted one. */
const MAX_INFLATED_BYTES = 512 * 1024 * 1024

/** Gzip at its quickest level, off the main thread; `undefined` where it does not make it smaller. */
export async function compress(bytes: Buffer): Promise<Buffer | undefined> {
  const packed = await gzipAsync(bytes, { level: constants.Z_BEST_SPEED })
  return packed.length < bytes.length * 0.9 ? packed : undefined
}

export async function decompress(bytes: Buffer): Promise<Buffer> {
  try {
    return bytes.length < SYNC_INFLATE_BYTES
      ? gunzipSync(bytes, { maxOutputLength: MAX_INFLATED_BYTES })
      : await gunzipAsync(bytes, { maxOutputLength: MAX_INFLATED_BYTES })
  } catch (error) {
    throw Object.assign(new CorruptEntryError('its payload does not inflate'), { cause: error })
  }
}
