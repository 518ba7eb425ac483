import { parseDuration } from './duration.js'
import type { Secret } from './signer.js'
import { parseSize } from './size.js'

/** A coded error class made with `@fastify/error` whose message is `'%s'`. */
export type OptionErrorConstructor = new (message: string) => Error

/** Bounds of a figure, both allowed, and what stands for it where it was not given. */
export interface OptionRange<Default> {
  /** Returned where the option is absent; need not lie within the bounds. */
  default: Default
  /** Default 0. */
  min?: number
  /** Default none. */
  max?: number
}

/**
 * Reads one plugin's options by name. Each method checks one option, returns it or its default, and throws
 * the plugin's own coded error naming the option, what was expected and what came. `done()` refuses what
 * was never asked for, so that a misspelt option fails `register` rather than being ignored.
 */
export interface OptionReader {
  /** `true` or `false`. */
  boolean<D>(name: string, fallback: D): boolean | D
  /** A non-empty string. */
  string<D>(name: string, fallback: D): string | D
  /** A whole number within the range. */
  integer<D>(name: string, range: OptionRange<D>): number | D
  /** A finite number within the range. */
  number<D>(name: string, range: OptionRange<D>): number | D
  /** Milliseconds. */
  duration<D>(name: string, range: OptionRange<D>): number | D
  /** Bytes. */
  size<D>(name: string, range: OptionRange<D>): number | D
  /** One of these values. */
  oneOf<const V extends string | boolean, D>(name: string, values: readonly V[], fallback: D): V | D
  /** A function; its parameters are not looked at. */
  func<F, D>(name: string, fallback: D): F | D
  /** A list of non-empty strings. */
  strings<D>(name: string, fallback: D): readonly string[] | D
  /** One secret or a list, each at least `minBytes` long. */
  secret(name: string, minBytes: number): Secret
  /** An object of options of its own, its names prefixed with this one's; `undefined` where it is absent. */
  group<T>(name: string, read: (reader: OptionReader) => T): T | undefined
  /** Takes an option as it is; the caller checks it and calls `fail`. */
  raw<T = unknown>(name: string): T | undefined
  /** Whether the option was given. */
  has(name: string): boolean
  /** The keys present in this group, for records whose names are the user's. */
  keys(): string[]
  /** Throws for an option that the caller checked itself; `expected` ends "must be …". */
  fail(name: string, expected: string): never
  /** Throws where an option was given that nobody asked for. */
  done(): void
}

/**
 * Reads the options that one plugin was given.
 *
 * @param plugin the package's name, for the message
 * @param input what the user passed to `register`
 */
export function optionReader(
  plugin: string,
  input: unknown,
  OptionError: OptionErrorConstructor
): OptionReader {
  return createReader(plugin, input, OptionError, '')
}

function createReader(
  plugin: string,
  input: unknown,
  OptionError: OptionErrorConstructor,
  prefix: string
): OptionReader {
  const where = (name: string): string => `${prefix}${name}`
  if (input !== undefined && (typeof input !== 'object' || input === null || Array.isArray(input))) {
    throw new OptionError(
      `${plugin}: ${prefix ? `option '${prefix.slice(0, -1)}'` : 'options'} must be an object, got ${show(input)}`
    )
  }
  const source = (input ?? {}) as Record<string, unknown>
  // Fastify itself reads these from the options of `register`.
  const asked = new Set<string>(prefix ? [] : ['prefix', 'logLevel', 'logSerializers'])

  const take = (name: string): unknown => {
    asked.add(name)
    return source[name]
  }
  const fail = (name: string, expected: string): never => {
    throw new OptionError(`${plugin}: option '${where(name)}' must be ${expected}, got ${show(source[name])}`)
  }
  const checked = <T, D>(
    name: string,
    fallback: D,
    expected: string,
    parse: (v: unknown) => T | undefined
  ): T | D => {
    const value = take(name)
    if (value === undefined) return fallback
    const parsed = parse(value)
    return parsed === undefined ? fail(name, expected) : parsed
  }
  const ranged = <D>(
    name: string,
    { default: fallback, min = 0, max = Number.MAX_SAFE_INTEGER }: OptionRange<D>,
    what: string,
    parse: (v: unknown) => number | undefined
  ): number | D => {
    const bounds = max === Number.MAX_SAFE_INTEGER ? `at least ${min}` : `between ${min} and ${max}`
    return checked(name, fallback, `${what}, ${bounds}`, (value) => {
      const parsed = parse(value)
      return parsed !== undefined && parsed >= min && parsed <= max ? parsed : undefined
    })
  }

  return {
    fail,
    keys: () => Object.keys(source),
    has: (name) => source[name] !== undefined,
    raw: <T>(name: string) => take(name) as T | undefined,
    boolean: (name, fallback) =>
      checked(name, fallback, 'true or false', (v) => (typeof v === 'boolean' ? v : undefined)),
    string: (name, fallback) =>
      checked(name, fallback, 'a non-empty string', (v) =>
        typeof v === 'string' && v !== '' ? v : undefined
      ),
    integer: (name, range) =>
      ranged(name, range, 'a whole number', (v) => (Number.isSafeInteger(v) ? (v as number) : undefined)),
    number: (name, range) =>
      ranged(name, range, 'a number', (v) => (typeof v === 'number' && Number.isFinite(v) ? v : undefined)),
    duration: (name, range) =>
      ranged(name, range, "a duration in milliseconds or a string such as '30s'", parseDuration),
    size: (name, range) => ranged(name, range, "a size in bytes or a string such as '64mb'", parseSize),
    oneOf: (name, values, fallback) =>
      checked(name, fallback, `one of ${values.map((v) => show(v)).join(', ')}`, (v) =>
        values.find((candidate) => candidate === v)
      ),
    func: <F, D>(name: string, fallback: D) =>
      checked(name, fallback, 'a function', (v) => (typeof v === 'function' ? (v as F) : undefined)),
    strings: (name, fallback) =>
      checked(name, fallback, 'a list of non-empty strings', (v) =>
        Array.isArray(v) && v.every((one) => typeof one === 'string' && one !== '')
          ? (v as string[])
          : undefined
      ),
    secret: (name, minBytes) => {
      const value = take(name)
      const list: unknown[] = Array.isArray(value) ? value : [value]
      const good = (one: unknown): boolean =>
        (typeof one === 'string' || Buffer.isBuffer(one)) && Buffer.byteLength(one) >= minBytes
      if (list.length > 0 && list.every(good)) return value as Secret
      // Never echo a secret, not even a short one.
      throw new OptionError(
        `${plugin}: option '${where(name)}' must be a secret of at least ${minBytes} bytes, or a list of such secrets ` +
          `with the newest first; make one with: node -p "crypto.randomBytes(32).toString('base64url')"`
      )
    },
    group: (name, read) => {
      const value = take(name)
      if (value === undefined) return undefined
      const reader = createReader(plugin, value, OptionError, `${where(name)}.`)
      const result = read(reader)
      reader.done()
      return result
    },
    done: () => {
      for (const name of Object.keys(source)) {
        if (asked.has(name)) continue
        const known = [...asked].filter((one) => !['logLevel', 'logSerializers'].includes(one))
        throw new OptionError(
          `${plugin}: unknown option '${where(name)}'; known ${prefix ? 'here' : 'options'}: ${known.join(', ')}`
        )
      }
    }
  }
}

function show(value: unknown): string {
  if (typeof value === 'string') return `'${value.length > 60 ? `${value.slice(0, 60)}…` : value}'`
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'a list' : 'an object'
  return String(value)
}
