import { randomFillSync } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { CorruptEntryError } from './errors.js'

/**
 * An entry as bytes: `F1`, a random version of 16 characters, the header's length (uint32), the header, the payload. The
 * version comes first so that a script can compare it without reading the rest. The header, big-endian: six doubles
 * (created, fresh, stale, grace, kept, compute), the payload's length (uint32), a CRC-32 of all the rest of the header and
 * the payload, 1 where the payload is compressed (uint8), the codec's name and the marks (doubles), each after its length
 * (uint8, uint32), and the tags as JSON, where there are any.
 */
export interface WireHeader {
  /** In milliseconds of the clock of Redis, as the next four. */
  created: number
  freshUntil: number
  staleUntil: number
  graceUntil: number
  /** The last of these: how long it is kept. */
  keptUntil: number
  /** How long the factory took, in milliseconds. */
  computeMs: number
  tags: readonly string[]
  /** The mark up to which each generation and each tag is contained in this value. */
  stamps: readonly number[]
  codec: string
  compressed: boolean
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
/** Of the header, up to the codec's name. */
const FIXED_LENGTH = 58
const CHECKSUM_AT = 52

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

export function encodeEntry(version: string, header: WireHeader, payload: Buffer): Buffer {
  const { tags, stamps, codec } = header
  const tagText = tags.length === 0 ? '' : JSON.stringify(tags)
  const nameLength = Buffer.byteLength(codec)
  const marksAt = FIXED_LENGTH + nameLength
  const tagsAt = marksAt + 4 + stamps.length * 8
  const length = tagsAt + Buffer.byteLength(tagText)
  const bytes = Buffer.allocUnsafe(PREFIX_LENGTH + length + payload.length)
  bytes.write(MAGIC + version, 'latin1')
  bytes.writeUInt32BE(length, STAMP_LENGTH)
  const head = bytes.subarray(PREFIX_LENGTH, PREFIX_LENGTH + length)
  head.writeDoubleBE(header.created, 0)
  head.writeDoubleBE(header.freshUntil, 8)
  head.writeDoubleBE(header.staleUntil, 16)
  head.writeDoubleBE(header.graceUntil, 24)
  head.writeDoubleBE(header.keptUntil, 32)
  head.writeDoubleBE(header.computeMs, 40)
  head.writeUInt32BE(payload.length, 48)
  head.writeUInt8(header.compressed ? 1 : 0, 56)
  head.writeUInt8(nameLength, 57)
  head.write(codec, FIXED_LENGTH)
  head.writeUInt32BE(stamps.length, marksAt)
  for (let i = 0; i < stamps.length; i++) head.writeDoubleBE(stamps[i]!, marksAt + 4 + i * 8)
  head.write(tagText, tagsAt)
  payload.copy(bytes, PREFIX_LENGTH + length)
  head.writeUInt32BE(checksum(head, payload), CHECKSUM_AT)
  return bytes
}

/** Of all but the checksum itself. */
function checksum(head: Buffer, payload: Buffer): number {
  return crc32(payload, crc32(head.subarray(CHECKSUM_AT + 4), crc32(head.subarray(0, CHECKSUM_AT))))
}

/** The first bytes of the entry of this version. */
export function stampFor(version: string): Buffer {
  return Buffer.from(MAGIC + version, 'latin1')
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
  const head = bytes.subarray(PREFIX_LENGTH, start)
  if (head.length < FIXED_LENGTH) throw new CorruptEntryError('its header lacks fields')
  const payload = bytes.subarray(start)
  if (payload.length !== head.readUInt32BE(48)) throw new CorruptEntryError('its payload is cut short')
  if (checksum(head, payload) !== head.readUInt32BE(CHECKSUM_AT))
    throw new CorruptEntryError('it was changed')
  return { version: bytes.toString('latin1', MAGIC.length, STAMP_LENGTH), header: readHeader(head), payload }
}

/** Its checksum holds: it is as it was written. */
function readHeader(head: Buffer): WireHeader {
  const marksAt = FIXED_LENGTH + head.readUInt8(57)
  const count = head.readUInt32BE(marksAt)
  const tagsAt = marksAt + 4 + count * 8
  const stamps: number[] = []
  for (let at = marksAt + 4; at < tagsAt; at += 8) stamps.push(head.readDoubleBE(at))
  return {
    created: head.readDoubleBE(0),
    freshUntil: head.readDoubleBE(8),
    staleUntil: head.readDoubleBE(16),
    graceUntil: head.readDoubleBE(24),
    keptUntil: head.readDoubleBE(32),
    computeMs: head.readDoubleBE(40),
    tags: tagsAt === head.length ? NO_TAGS : (JSON.parse(head.toString('utf8', tagsAt)) as string[]),
    stamps,
    codec: head.toString('utf8', FIXED_LENGTH, marksAt),
    compressed: head.readUInt8(56) === 1
  }
}

const NO_TAGS: readonly string[] = []
