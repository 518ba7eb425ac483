import { parse } from 'secure-json-parse'
import { detail, ERR_KEY, ERR_TOO_LARGE, ERR_UNSERIALISABLE } from '../errors.js'
import { fieldOf, keyOf } from './meta.js'
import { CorruptSession } from './session-records.js'
import type { Changes } from './session-store.js'

type Stored = Readonly<Record<string, string>>

/** How to look into fields that are stored sealed. */
export interface Sealed {
  /** @throws where it cannot be opened */
  decode(field: string, stored: string): string
  /** Bytes of the text. */
  sizeOf(stored: string): number
}

/**
 * The data of one session during one request. A field is parsed when it is first read. Fields are compared as text with what was loaded, so a
 * change deep inside an object is seen, and only what was handed out can have changed.
 */
export class SessionFields {
  #stored: Stored
  readonly #sealed: Sealed | undefined
  /** JSON of fields whose stored form is sealed. */
  #texts: Map<string, string> | undefined
  /** What has been parsed or set. An own `undefined` is a removal. */
  #values: Record<string, unknown> = {}
  /** Keys whose value may differ from what is stored. */
  #open: Set<string> | undefined
  /** `data` was handed out: any key may differ, and `#values` is complete. */
  #whole = false

  constructor(stored: Stored, sealed?: Sealed) {
    this.#stored = stored
    this.#sealed = sealed
    if (sealed) this.#texts = new Map()
  }

  /**
   * Data that has moved to another id. What `before` has handed out stays the session's, `data` as a whole too, but
   * for what others have changed: the keys whose text is not what it was.
   * @throws CorruptSession
   */
  static from(texts: ReadonlyMap<string, string>, before: SessionFields, was: typeof texts): SessionFields {
    const fields = new SessionFields(Object.fromEntries(texts))
    fields.#values = before.#values
    fields.#whole = before.#whole
    for (const field of new Set([...was.keys(), ...texts.keys()])) {
      if (texts.get(field) === was.get(field)) continue
      const key = keyOf(field)!
      delete fields.#values[key]
      if (fields.#whole && texts.has(field)) fields.#parse(key)
    }
    fields.#open = new Set(Object.keys(fields.#values))
    return fields
  }

  /** These keys alone, with what was done to them. The values stay the same objects. */
  only(keys: readonly string[]): SessionFields {
    const stored: Record<string, string> = {}
    for (const key of keys) {
      const field = fieldOf(key)
      if (Object.hasOwn(this.#stored, field)) stored[field] = this.#stored[field]!
    }
    const picked = new SessionFields(stored, this.#sealed)
    if (this.#texts) picked.#texts = new Map()
    picked.#open = new Set()
    for (const key of keys) {
      const text = this.#texts?.get(fieldOf(key))
      if (text !== undefined) picked.#texts!.set(fieldOf(key), text)
      if (Object.hasOwn(this.#values, key)) picked.#values[key] = this.#values[key]
      if (this.#whole || this.#open?.has(key)) picked.#open.add(key)
    }
    return picked
  }

  /** Another session's data is in its place: writing to the `data` of this one then throws. */
  freeze(): void {
    if (this.#whole) Object.freeze(this.#values)
  }

  get(key: string): unknown {
    let value: unknown
    if (Object.hasOwn(this.#values, key)) value = this.#values[key]
    else if (!this.#whole && Object.hasOwn(this.#stored, fieldOf(key))) value = this.#parse(key)
    if (typeof value === 'object' && value !== null) (this.#open ??= new Set()).add(key)
    return value
  }

  /** `undefined` removes the key. */
  set(key: string, value: unknown): void {
    assertKey(key)
    if (value === undefined && this.#whole) delete this.#values[key]
    else this.#values[key] = value
    ;(this.#open ??= new Set()).add(key)
  }

  has(key: string): boolean {
    if (Object.hasOwn(this.#values, key)) return this.#values[key] !== undefined
    return !this.#whole && Object.hasOwn(this.#stored, fieldOf(key)) && keyOf(fieldOf(key)) !== undefined
  }

  keys(): string[] {
    return Object.keys(this.#values)
      .concat(this.#whole ? [] : this.#storedKeys().filter((key) => !Object.hasOwn(this.#values, key)))
      .filter((key) => this.#values[key] !== undefined || !Object.hasOwn(this.#values, key))
  }

  /** The whole as one plain object; what is done to it is saved. */
  get data(): Record<string, unknown> {
    if (!this.#whole) {
      for (const key of this.#storedKeys()) if (!Object.hasOwn(this.#values, key)) this.#parse(key)
      for (const key of Object.keys(this.#values))
        if (this.#values[key] === undefined) delete this.#values[key]
      this.#whole = true
    }
    return this.#values
  }

  /** Puts other data in place of all there is. */
  replace(data: Readonly<Record<string, unknown>>): void {
    const { data: present } = this
    for (const key of Object.keys(present)) delete present[key]
    this.merge(data)
  }

  /** Puts other data over what there is. */
  merge(data: Readonly<Record<string, unknown>>): void {
    for (const [key, value] of Object.entries(data)) this.set(key, value)
  }

  /**
   * What differs from what is stored.
   * @throws FLOTILLA_SESSION_ERR_KEY, FLOTILLA_SESSION_ERR_UNSERIALISABLE
   */
  changes(): Changes | undefined {
    if (!this.#whole && !this.#open) return undefined
    const candidates = this.#whole
      ? new Set([...this.#storedKeys(), ...Object.keys(this.#values)])
      : (this.#open as Set<string>)
    let set: [string, string][] | undefined
    let remove: string[] | undefined
    for (const key of candidates) {
      const field = fieldOf(key)
      const before = this.#text(field)
      const value = this.#values[key]
      if (value === undefined || !Object.hasOwn(this.#values, key)) {
        if (before !== undefined) (remove ??= []).push(field)
        continue
      }
      const text = serialise(key, value)
      if (text === before) continue
      // `data` takes any key.
      assertKey(key)
      assertReadable(key, text)
      ;(set ??= []).push([field, text])
    }
    return set || remove ? { set: set ?? [], remove: remove ?? [] } : undefined
  }

  /** Everything as JSON texts by field name, once these changes are written. */
  snapshot(changes = this.changes()): Map<string, string> {
    const texts = new Map<string, string>()
    for (const key of this.#storedKeys()) texts.set(fieldOf(key), this.#text(fieldOf(key))!)
    for (const [field, text] of changes?.set ?? []) texts.set(field, text)
    for (const field of changes?.remove ?? []) texts.delete(field)
    return texts
  }

  /** The data as it is read back once these changes are written. */
  preview(changes: Changes): Record<string, unknown> {
    const data: Record<string, unknown> = {}
    for (const [field, text] of this.snapshot(changes)) data[keyOf(field)!] = deserialise(field, text)
    return data
  }

  /**
   * Refuses to let the session grow past its limit.
   * @throws FLOTILLA_SESSION_ERR_TOO_LARGE whose cause names the largest field
   */
  assertSize(changes: Changes, limit: number): void {
    const sizes = new Map<string, number>()
    for (const key of this.#storedKeys()) {
      const field = fieldOf(key)
      sizes.set(field, Buffer.byteLength(field) + this.#sizeOf(field))
    }
    for (const [field, text] of changes.set)
      sizes.set(field, Buffer.byteLength(field) + Buffer.byteLength(text))
    for (const field of changes.remove) sizes.delete(field)
    let total = 0
    for (const size of sizes.values()) total += size
    if (total <= limit) return
    const [field, size] = [...sizes].reduce((largest, one) => (one[1] > largest[1] ? one : largest))
    throw new ERR_TOO_LARGE(
      detail(`${total} of ${limit} bytes; the largest field is '${keyOf(field) ?? field}' (${size} bytes)`)
    )
  }

  /** The changes have been written: they are what is stored now. */
  saved(changes: Changes): void {
    const stored = { ...this.#stored }
    for (const [field, text] of changes.set) {
      // Sealed, the stored form is not known here; a compare-and-set finds it out.
      stored[field] = this.#texts ? '' : text
      this.#texts?.set(field, text)
    }
    for (const field of changes.remove) {
      delete stored[field]
      this.#texts?.delete(field)
    }
    this.#stored = stored
  }

  /** One field was written by itself, or found to be different. */
  adopt(key: string, stored: string | undefined, text: string | undefined): unknown {
    const field = fieldOf(key)
    const next = { ...this.#stored }
    if (stored === undefined || text === undefined) {
      delete next[field]
      this.#texts?.delete(field)
      delete this.#values[key]
    } else {
      next[field] = stored
      // Data of a session that was new had no sealed form until now.
      if (!this.#texts && stored !== text) this.#texts = new Map(Object.entries(this.#stored))
      this.#texts?.set(field, text)
      this.#values[key] = deserialise(field, text)
    }
    this.#stored = next
    return this.#values[key]
  }

  /** A copy of a key's value as stored, apart from what the handler may have done to its own. */
  fresh(key: string): unknown {
    const field = fieldOf(key)
    const text = this.#text(field)
    return text === undefined ? undefined : deserialise(field, text)
  }

  /** The text a compare-and-set expects, as stored. */
  storedText(key: string): string | undefined {
    const field = fieldOf(key)
    return Object.hasOwn(this.#stored, field) ? this.#stored[field] : undefined
  }

  /** Whether this key was changed here and not written yet. */
  changed(key: string): boolean {
    if (!this.#whole && !this.#open?.has(key)) return false
    const value = Object.hasOwn(this.#values, key) ? this.#values[key] : undefined
    return (value === undefined ? undefined : serialise(key, value)) !== this.#text(fieldOf(key))
  }

  #storedKeys(): string[] {
    const keys: string[] = []
    for (const field in this.#stored) {
      const key = keyOf(field)
      if (key !== undefined) keys.push(key)
    }
    return keys
  }

  #text(field: string): string | undefined {
    if (!Object.hasOwn(this.#stored, field)) return undefined
    if (!this.#texts) return this.#stored[field]
    let text = this.#texts.get(field)
    if (text === undefined) {
      try {
        text = this.#sealed!.decode(field, this.#stored[field]!)
      } catch (cause) {
        throw new CorruptSession(`field '${field}' cannot be decrypted`, { cause })
      }
      this.#texts.set(field, text)
    }
    return text
  }

  /** Bytes of the text of a field. */
  #sizeOf(field: string): number {
    const stored = this.#stored[field]!
    const text = this.#texts ? this.#texts.get(field) : stored
    return text === undefined ? this.#sealed!.sizeOf(stored) : Buffer.byteLength(text)
  }

  #parse(key: string): unknown {
    if (UNUSABLE.has(key)) throw new CorruptSession('a field has a name that is never written')
    const field = fieldOf(key)
    return (this.#values[key] = deserialise(field, this.#text(field)!))
  }
}

function deserialise(field: string, text: string): unknown {
  try {
    // Refuses `__proto__` and `constructor.prototype`, which would poison the object that the value is merged into.
    return parse(text)
  } catch (cause) {
    throw new CorruptSession(`field '${field}' is not JSON that may be read`, { cause })
  }
}

/** Names that poison the object that data is copied into, and the empty one. */
const UNUSABLE: ReadonlySet<string> = new Set(['', '__proto__', 'constructor', 'prototype'])

/** @throws FLOTILLA_SESSION_ERR_KEY */
export function assertKey(key: unknown): void {
  if (typeof key === 'string' && !UNUSABLE.has(key)) return
  const got = typeof key === 'string' ? `'${key}'` : typeof key
  throw new ERR_KEY(
    detail(
      `a session key must be a non-empty string other than '__proto__', 'constructor' and 'prototype', got ${got}`
    )
  )
}

/**
 * Reading refuses some names of properties, and the session with them. So a text that has them must not be written.
 * @throws FLOTILLA_SESSION_ERR_UNSERIALISABLE whose cause names the field
 */
export function assertReadable(key: string, text: string): void {
  if (!text.includes('__proto__') && !text.includes('constructor')) return
  try {
    parse(text)
  } catch {
    throw unserialisable(key, 'a property `__proto__` or `constructor.prototype` is never read back')
  }
}

/** @throws FLOTILLA_SESSION_ERR_UNSERIALISABLE whose cause names the field */
export function serialise(key: string, value: unknown): string {
  if (value instanceof Map || value instanceof Set || value instanceof Promise)
    throw unserialisable(key, `JSON has no ${value.constructor.name}, it would be stored as {}`)
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch (cause) {
    throw unserialisable(key, (cause as Error).message.split('\n')[0] ?? 'JSON.stringify failed', cause)
  }
  if (text === undefined) throw unserialisable(key, `JSON has no ${typeof value}`)
  return text
}

function unserialisable(key: string, reason: string, cause?: unknown): Error {
  return new ERR_UNSERIALISABLE(detail(`field '${key}': ${reason}`, cause))
}
