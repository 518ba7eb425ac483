import { randomFillSync } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { CorruptEntryError } from './errors.js'

/**
 * An entry as bytes: `F1`, a random version of 16 characters, the header's length (uint32), the header as JSON, the
 * payload. The version comes first so that a script can compare it without reading the rest.
 */
export interface WireHeader {
  /** Times in milliseconds of the clock of Redis: computed, fresh until, stale-while-revalidate until, kept until. */
  c: number
  f: number
  s: number
  h: number
  /** How long the factory took, in milliseconds. */
  d: number
  /** Grace ends, in milliseconds of the clock of Redis. */
  g: number
  /** Tags, and the mark up to which each tag and generation is contained in this value. */
  t: string[]
  m: number[]
  /** Codec, whether the payload is compressed, its length and CRC-32. */
  e: string
  z: boolean
  n: number
  x: number
}

export interface WireEntry {
  readonly version: string
  readonly header: WireHeader
  readonly payload: Buffer
}

const MAGIC = 'F1'
const VERSION_LENGTH = 16
/** The bytes that name one version of an entry: what scripts compare. */
const STAMP_LENGTH = MAGIC.length + VERSION_LENGTH
const PREFIX_LENGTH = STAMP_LENGTH + 4

const pool = Buffer.alloc(12 * 256)
let used = pool.length

/** 96 random bits as 16 characters, drawn in batches. */
export function newVersion(): string {
  if (used === pool.length) {
    randomFillSync(pool)
    used = 0
  }
  return pool.toString('base64url', used, (used += 12))
}

export function encodeEntry(version: string, header: Omit<WireHeader, 'n' | 'x'>, payload: Buffer): Buffer {
  const text = Buffer.from(JSON.stringify({ ...header, n: payload.length, x: crc32(payload) }))
  const prefix = Buffer.allocUnsafe(PREFIX_LENGTH)
  prefix.write(MAGIC + version, 'latin1')
  prefix.writeUInt32BE(text.length, STAMP_LENGTH)
  return Buffer.concat([prefix, text, payload])
}

/** The first bytes of a stored entry, whatever it is: enough for a script to know it again. */
export function stampOf(bytes: Buffer): Buffer {
  return bytes.subarray(0, STAMP_LENGTH)
}

/** @throws FLOTILLA_CACHE_ERR_CORRUPT_ENTRY for bytes that are not a whole entry of this format */
export function decodeEntry(bytes: Buffer): WireEntry {
  if (bytes.length < PREFIX_LENGTH || bytes.toString('latin1', 0, 2) !== MAGIC) {
    throw new CorruptEntryError(bytes[0] === 0x46 ? 'it is of another format' : 'it is not an entry')
  }
  const start = PREFIX_LENGTH + bytes.readUInt32BE(STAMP_LENGTH)
  if (start > bytes.length) throw new CorruptEntryError('its header is cut short')
  const header = parseHeader(bytes.toString('utf8', PREFIX_LENGTH, start))
  const payload = bytes.subarray(start)
  if (payload.length !== header.n) throw new CorruptEntryError('its payload is cut short')
  if (crc32(payload) !== header.x) throw new CorruptEntryError('its payload was changed')
  return { version: bytes.toString('latin1', MAGIC.length, STAMP_LENGTH), header, payload }
}

function parseHeader(text: string): WireHeader {
  let header: Partial<WireHeader> | null
  try {
    header = JSON.parse(text) as Partial<WireHeader> | null
  } catch (error) {
    throw Object.assign(new CorruptEntryError('its header is not JSON'), { cause: error })
  }
  const numbers = [header?.c, header?.f, header?.s, header?.h, header?.g, header?.d, header?.n, header?.x]
  if (
    !header ||
    !numbers.every((one) => typeof one === 'number') ||
    !Array.isArray(header.t) ||
    !Array.isArray(header.m) ||
    typeof header.e !== 'string'
  ) {
    throw new CorruptEntryError('its header lacks fields')
  }
  return header as WireHeader
}
