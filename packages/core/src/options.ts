import { parseDuration } from './duration.js'
import { didYouMean } from './nearest-name.js'
import type { Secret } from './signer.js'
import { parseSize } from './size.js'

/** A coded error class made with `@fastify/error` whose message is `'%s'`. */
export type OptionErrorConstructor = new (message: string) => Error

/** Bounds of a figure, both allowed, and its default. */
export interface OptionRange<Default> {
  /** Returned if the option is absent; need not lie within the bounds. */
  default: Default
  /** Default 0. */
  min?: number
  /** Default none. */
  max?: number
}

/** What a reader reads, and how it reports what is wrong. */
interface Source {
  readonly plugin: string
  readonly OptionError: OptionErrorConstructor
  /** Stands before the names of a group: `'pool.'`. */
  readonly prefix: string
}

/** Fastify itself reads these from the options of `register`. */
const OF_REGISTER = new Set(['prefix', 'logLevel', 'logSerializers'])

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
  return new OptionReader({ plugin, OptionError, prefix: '' }, input)
}

/**
 * Reads one plugin's options by name. Each method checks one option, returns it or its default, and throws the plugin's own
 * coded error naming the option, what was expected and what came. `done()` refuses an option that no method was asked
 * for: a misspelt option fails `register` and is not silently ignored.
 */
export class OptionReader {
  readonly #source: Source
  readonly #values: Readonly<Record<string, unknown>>
  readonly #asked = new Set<string>()

  constructor(source: Source, input: unknown) {
    this.#source = source
    if (input !== undefined && (typeof input !== 'object' || input === null || Array.isArray(input))) {
      const { plugin, prefix, OptionError } = source
      const what = prefix ? `option '${prefix.slice(0, -1)}'` : 'options'
      throw new OptionError(`${plugin}: ${what} must be an object, got ${show(input)}`)
    }
    this.#values = (input ?? {}) as Record<string, unknown>
  }

  /** `true` or `false`. */
  boolean<D>(name: string, fallback: D): boolean | D {
    return this.#check(name, fallback, 'true or false', (v) => (typeof v === 'boolean' ? v : undefined))
  }

  /** A non-empty string. */
  string<D>(name: string, fallback: D): string | D {
    return this.#check(name, fallback, 'a non-empty string', (v) => (isText(v) ? v : undefined))
  }

  /** A whole number within the range. */
  integer<D>(name: string, range: OptionRange<D>): number | D {
    const parse = (v: unknown): number | undefined => (Number.isSafeInteger(v) ? (v as number) : undefined)
    return this.#within(name, range, 'a whole number', parse)
  }

  /** A finite number within the range. */
  number<D>(name: string, range: OptionRange<D>): number | D {
    const parse = (v: unknown): number | undefined => (Number.isFinite(v) ? (v as number) : undefined)
    return this.#within(name, range, 'a number', parse)
  }

  /** Milliseconds. */
  duration<D>(name: string, range: OptionRange<D>): number | D {
    return this.#within(name, range, "a duration in milliseconds or a string such as '30s'", parseDuration)
  }

  /** Bytes. */
  size<D>(name: string, range: OptionRange<D>): number | D {
    return this.#within(name, range, "a size in bytes or a string such as '64mb'", parseSize)
  }

  /** One of these values. */
  oneOf<const V extends string | boolean, D>(name: string, values: readonly V[], fallback: D): V | D {
    const value = this.#take(name)
    if (value === undefined) return fallback
    const found = values.find((candidate) => candidate === value)
    if (found !== undefined) return found
    const texts = values.filter((one) => typeof one === 'string')
    const hint = typeof value === 'string' ? didYouMean(value, texts) : ''
    return this.#fail(name, `one of ${values.map((one) => show(one)).join(', ')}`, hint)
  }

  /** A function; its parameters are not looked at. */
  func<F, D>(name: string, fallback: D): F | D {
    return this.#check(name, fallback, 'a function', (v) => (typeof v === 'function' ? (v as F) : undefined))
  }

  /** A list of non-empty strings. */
  strings<D>(name: string, fallback: D): readonly string[] | D {
    const parse = (v: unknown): string[] | undefined => (Array.isArray(v) && v.every(isText) ? v : undefined)
    return this.#check(name, fallback, 'a list of non-empty strings', parse)
  }

  /** One secret or a list, each at least `minBytes` long. */
  secret(name: string, minBytes: number): Secret {
    const value = this.#take(name)
    const list: unknown[] = Array.isArray(value) ? value : [value]
    const good = (one: unknown): boolean =>
      (typeof one === 'string' || Buffer.isBuffer(one)) && Buffer.byteLength(one) >= minBytes
    if (list.length > 0 && list.every(good)) return value as Secret
    const { plugin, OptionError } = this.#source
    // Never echo a secret, not even a short one.
    throw new OptionError(
      `${plugin}: option '${this.#full(name)}' must be a secret of at least ${minBytes} bytes, or a list of such secrets ` +
        `with the newest first; make one with: node -p "crypto.randomBytes(32).toString('base64url')"`
    )
  }

  /** An object of options of its own, its names prefixed with this one's; `undefined` if it is absent. */
  group<T>(name: string, read: (reader: OptionReader) => T): T | undefined {
    const value = this.#take(name)
    if (value === undefined) return undefined
    const reader = new OptionReader({ ...this.#source, prefix: `${this.#full(name)}.` }, value)
    const result = read(reader)
    reader.done()
    return result
  }

  /** Takes an option as it is; the caller checks it and calls `fail`. */
  raw<T = unknown>(name: string): T | undefined {
    return this.#take(name) as T | undefined
  }

  /** Whether the option was given. */
  has(name: string): boolean {
    return this.#values[name] !== undefined
  }

  /** The keys present in this group, for records whose names are the user's. */
  keys(): string[] {
    return Object.keys(this.#values)
  }

  /** Throws for an option that the caller checked itself; `expected` ends "must be …". */
  fail(name: string, expected: string): never {
    return this.#fail(name, expected, '')
  }

  /** Throws if an option was given that no method was asked for. */
  done(): void {
    const { plugin, prefix, OptionError } = this.#source
    for (const name of Object.keys(this.#values)) {
      if (this.#asked.has(name) || (!prefix && OF_REGISTER.has(name))) continue
      const known = [...this.#asked]
      const hint = didYouMean(name, known)
      const list = `nown ${prefix ? 'here' : 'options'}: ${known.join(', ')}`
      throw new OptionError(
        `${plugin}: unknown option '${this.#full(name)}'${hint ? `${hint} K` : '; k'}${list}`
      )
    }
  }

  #full(name: string): string {
    return `${this.#source.prefix}${name}`
  }

  #take(name: string): unknown {
    this.#asked.add(name)
    return this.#values[name]
  }

  #fail(name: string, expected: string, hint: string): never {
    const { plugin, OptionError } = this.#source
    const got = show(this.#values[name])
    throw new OptionError(`${plugin}: option '${this.#full(name)}' must be ${expected}, got ${got}${hint}`)
  }

  #check<T, D>(name: string, fallback: D, expected: string, parse: (v: unknown) => T | undefined): T | D {
    const value = this.#take(name)
    if (value === undefined) return fallback
    const parsed = parse(value)
    return parsed === undefined ? this.#fail(name, expected, '') : parsed
  }

  #within<D>(
    name: string,
    { default: fallback, min = 0, max = Number.MAX_SAFE_INTEGER }: OptionRange<D>,
    what: string,
    parse: (v: unknown) => number | undefined
  ): number | D {
    const bounds = max === Number.MAX_SAFE_INTEGER ? `at least ${min}` : `between ${min} and ${max}`
    return this.#check(name, fallback, `${what}, ${bounds}`, (value) => {
      const parsed = parse(value)
      return parsed !== undefined && parsed >= min && parsed <= max ? parsed : undefined
    })
  }
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}

function show(value: unknown): string {
  if (typeof value === 'string') return `'${value.length > 60 ? `${value.slice(0, 60)}…` : value}'`
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'a list' : 'an object'
  return String(value)
}
