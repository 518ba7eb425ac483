import type { Mark } from './marks.js'

/*
 * What values take on the heap of V8 with 64-bit pointers, as measured on Node.js 20 to 26. The memory of a process must not
 * outgrow `maxSize`, so what V8 may lay out in two ways counts as the larger one.
 */
const OBJECT_BYTES = 24
const ARRAY_BYTES = 48
const SLOT_BYTES = 8
/** A number that is not a small integer, outside of arrays of such numbers. */
const NUMBER_BYTES = 16
const STRING_BYTES = 24
/** Map, Set, Date and the like, besides what they hold. */
const BUILT_IN_BYTES = 96
/** A slot in the hash table of a Map or Set, with the spare room that its growth leaves. */
const MAP_SLOT_BYTES = 56
const SET_SLOT_BYTES = 44
/** A view of bytes and its backing store, besides the bytes. */
const BYTES_BYTES = 280
/** From here on an object has a hash table in place of slots. */
const DICTIONARY_KEYS = 128
const DICTIONARY_SLOT_BYTES = 88
/** The hidden class that a new name of a property leads to. */
const CLASS_BYTES = 250
const MAX_KNOWN_KEYS = 5000

const BEYOND_LATIN1 = /[\u0100-\uFFFF]/

/** Names of properties that objects had lately: V8 keeps each once. */
const knownKeys = new Set<string>()

/** About how many bytes of the heap a value takes. It looks at all parts, which costs less than decoding them did. */
export function sizeOf(value: unknown): number {
  let bytes = 0
  const queue: unknown[] = [value]
  while (queue.length > 0) bytes += shallowSize(queue.pop(), queue)
  return bytes
}

/** Without its parts, which it adds to the queue. */
function shallowSize(value: unknown, queue: unknown[]): number {
  switch (typeof value) {
    case 'string':
      return stringSize(value)
    case 'number':
      return isSmall(value) ? 0 : NUMBER_BYTES
    case 'bigint':
      return NUMBER_BYTES + value.toString(16).length / 2
    case 'object':
      return value === null ? 0 : objectSize(value, queue)
    default:
      return 0
  }
}

function stringSize(text: string): number {
  return STRING_BYTES + (BEYOND_LATIN1.test(text) ? 2 * text.length : text.length)
}

function isSmall(value: number): boolean {
  return (value | 0) === value && !Object.is(value, -0)
}

function objectSize(value: object, queue: unknown[]): number {
  if (Array.isArray(value)) return arraySize(value, queue)
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return BYTES_BYTES + value.byteLength
  if (value instanceof Map) {
    for (const [key, one] of value) queue.push(key, one)
    return BUILT_IN_BYTES + value.size * MAP_SLOT_BYTES
  }
  if (value instanceof Set) {
    for (const one of value) queue.push(one)
    return BUILT_IN_BYTES + value.size * SET_SLOT_BYTES
  }
  const keys = Object.keys(value)
  if (keys.length === 0) return BUILT_IN_BYTES
  const isDictionary = keys.length > DICTIONARY_KEYS
  let bytes = OBJECT_BYTES + keys.length * (isDictionary ? DICTIONARY_SLOT_BYTES : SLOT_BYTES)
  for (const key of keys) {
    if (isNew(key)) bytes += stringSize(key) + (isDictionary ? 0 : CLASS_BYTES)
    queue.push((value as Record<string, unknown>)[key])
  }
  return bytes
}

function arraySize(list: readonly unknown[], queue: unknown[]): number {
  // Numbers alone lie in the list itself.
  if (!list.every((one) => typeof one === 'number')) for (const one of list) queue.push(one)
  return ARRAY_BYTES + list.length * SLOT_BYTES
}

function isNew(key: string): boolean {
  if (knownKeys.has(key)) return false
  if (knownKeys.size >= MAX_KNOWN_KEYS) knownKeys.clear()
  knownKeys.add(key)
  return true
}

/** What an entry takes besides its key, its value and its tags: the object, its numbers and version, its place in the index. */
const ENTRY_BYTES = 380
/** A mark that only this entry holds. */
const MARK_BYTES = 400

/** About how many bytes of the heap an entry takes. */
export function entrySize(key: string, value: unknown, marks: readonly Mark[]): number {
  let bytes = ENTRY_BYTES + stringSize(key) + sizeOf(value) + marks.length * 3 * SLOT_BYTES
  for (const { refs, name } of marks) if (refs === 1) bytes += MARK_BYTES + stringSize(name)
  return bytes
}
