import { type Cipher, UnknownSecret } from './cipher.js'
import type { FieldCodec, SessionEncryption } from './field-codec.js'
import type { Keys, SessionKey } from './keys.js'
import {
  DATA_KEY,
  META,
  type Meta,
  parseMeta,
  parseVerifier,
  REPLACED,
  SUCCESSOR,
  USER,
  VERIFIER
} from './meta.js'
import type {
  Changes,
  CreateInput,
  CreateResult,
  PresentResult,
  RenewResult,
  SessionStore,
  StoredFields
} from './session-store.js'
import type { SessionToken, SessionTokens } from './token.js'

/** A session as the store holds it. Shared between requests in `local` mode, so never changed. */
export interface SessionRecord {
  readonly key: SessionKey
  /** The present one, as far as it is known: a client whose token is the previous one is given this. */
  readonly token: SessionToken
  /** False until a token of this generation has been presented: then the store must hear of it. */
  readonly presented: boolean
  readonly meta: Meta
  readonly userId: string | undefined
  readonly fields: StoredFields
  readonly codec: FieldCodec
}

/**
 * What came of a token. `ended`: there is no such session. `replaced`: it ended a moment ago, and its browser is being given another.
 * `void`, `reused`: the session is there, but this token does not open it. `unreadable`: only another instance has the secret for it.
 */
export type Loaded =
  | SessionRecord
  | { readonly status: 'ended' | 'replaced' | 'unreadable' }
  | { readonly status: 'void' | 'reused'; readonly key: SessionKey }

/** `undefined` token: another request renewed it, and its token is not known here. */
export type Renewed =
  | { readonly status: 'renewed' | 'recent' | 'raced'; readonly token: SessionToken | undefined }
  | { readonly status: 'ended' }

/** What is stored under the key is not a session of ours, or cannot be read. */
export class CorruptSession extends Error {}

export interface NewSession extends Omit<CreateInput, 'verifierHash' | 'fields'> {
  readonly userId: string | undefined
  readonly changes: Changes
}

const PLAIN: FieldCodec = {
  encode: (_field, text) => text,
  decode: (_field, stored) => stored,
  sizeOf: (stored) => Buffer.byteLength(stored)
}

export interface RecordSettings {
  /** Milliseconds for which a verifier stays valid after its successor was first presented. */
  readonly grace: number
  readonly onReuse: 'end' | 'reject'
}

/** The sessions of a {@link SessionStore}, opened by tokens, with their fields readable. */
export class SessionRecords {
  readonly #store: SessionStore
  readonly #keys: Keys
  readonly #tokens: SessionTokens
  readonly #successors: Cipher
  readonly #encryption: SessionEncryption | undefined
  readonly #settings: RecordSettings

  constructor(
    store: SessionStore,
    { keys, tokens }: { readonly keys: Keys; readonly tokens: SessionTokens },
    {
      successors,
      encryption
    }: { readonly successors: Cipher; readonly encryption: SessionEncryption | undefined },
    settings: RecordSettings
  ) {
    this.#store = store
    this.#keys = keys
    this.#tokens = tokens
    this.#successors = successors
    this.#encryption = encryption
    this.#settings = settings
  }

  /** @throws CorruptSession */
  async load(token: SessionToken): Promise<Loaded> {
    const fields = await this.#store.read({ ...token, userHash: undefined })
    if (fields[META] === undefined) {
      if (fields[REPLACED] !== undefined) return { status: 'replaced' }
      for (const _ in fields) throw new CorruptSession('its meta field is missing')
      return { status: 'ended' }
    }
    const verifier = parseVerifier(fields[VERIFIER])
    if (!verifier) throw new CorruptSession('its verifier field cannot be read')
    const { generation, hash, presented } = verifier
    if (presented && generation === token.generation && hash === token.verifierHash)
      return this.#read(token, fields)
    return await this.#present(token, fields)
  }

  /** @returns the record of the session, or that the user has too many */
  async create(
    token: SessionToken,
    userHash: string | undefined,
    { userId, changes, ...input }: NewSession
  ): Promise<{ readonly result: CreateResult; readonly codec: FieldCodec; readonly key: SessionKey }> {
    const codec = this.#encryption?.create(token) ?? PLAIN
    const set = userId === undefined ? changes.set : [...changes.set, [USER, userId] as const]
    const fields = encode(codec, set)
    if (codec.wrapFor) fields.push([DATA_KEY, codec.wrapFor(token)])
    const key: SessionKey = { tag: token.tag, ref: token.ref, userHash }
    const result = await this.#store.create(key, { ...input, verifierHash: token.verifierHash, fields })
    return { result, codec, key }
  }

  /** Gives the session its next token. @param immediate whether the previous one is void at once */
  async renew({ key, token, codec }: SessionRecord, immediate: boolean): Promise<Renewed> {
    const next = this.#tokens.next(token)
    const result: RenewResult = await this.#store.renew(key, {
      generation: token.generation,
      verifierHash: next.verifierHash,
      successor: immediate
        ? undefined
        : this.#successors.seal(token.verifier, this.#boundOf(token), next.verifier),
      dataKey: codec.wrapFor?.(next)
    })
    if (result.status === 'ended') return { status: 'ended' }
    if (result.status === 'renewed') return { status: 'renewed', token: next }
    if (result.status === 'recent') return { status: 'recent', token }
    const { generation, successor } = result
    const known = generation === token.generation + 1 && successor !== undefined
    return { status: 'raced', token: known ? this.#follow(token, successor) : undefined }
  }

  /** The fields of a session that this request has had open, as the store holds them now. */
  again(record: SessionRecord, fields: StoredFields): SessionRecord {
    return this.#read(record.token, fields, record.codec)
  }

  async #present(token: SessionToken, fields: StoredFields): Promise<Loaded> {
    const meta = parseMeta(fields[META]!)
    if (!meta) throw new CorruptSession('its meta field cannot be read')
    const key = { tag: token.tag, ref: token.ref, userHash: meta.userHash }
    const { grace, onReuse } = this.#settings
    const result: PresentResult = await this.#store.present(key, {
      generation: token.generation,
      verifierHash: token.verifierHash,
      grace,
      endReused: onReuse === 'end',
      // A token of ours that the store does not know yet: a failover or a restore lost its renewal. With encryption that would lose the data's key.
      adopt: this.#encryption === undefined
    })
    if (result.status === 'current') return this.#read(token, result.fields)
    if (result.status === 'ended') return { status: 'ended' }
    if (result.status !== 'previous') return { status: result.status, key }
    const sealed = result.fields[SUCCESSOR]
    const present = sealed === undefined ? undefined : this.#follow(token, sealed)
    if (present) return this.#read(present, result.fields)
    // Renewed by an instance with a newer secret.
    return this.#encryption ? { status: 'unreadable' } : this.#read(token, result.fields)
  }

  #read(token: SessionToken, fields: StoredFields, known?: FieldCodec): SessionRecord {
    const meta = fields[META] === undefined ? undefined : parseMeta(fields[META])
    if (!meta) throw new CorruptSession('its meta field cannot be read')
    const user = fields[USER]
    if ((user === undefined) !== (meta.userHash === undefined))
      throw new CorruptSession('its user field is missing')
    const key: SessionKey = { tag: token.tag, ref: token.ref, userHash: meta.userHash }
    const codec = known ?? this.#codecOf(token, fields)
    const userId = user === undefined ? undefined : decode(codec, USER, user)
    if (userId !== undefined && !this.#keys.belongsTo(userId, key))
      throw new CorruptSession('its user field is another user than the one it was opened for')
    const verifier = parseVerifier(fields[VERIFIER])
    const presented = verifier?.presented === true && verifier.generation === token.generation
    return { key, token, presented, meta, userId, fields, codec }
  }

  #codecOf(token: SessionToken, fields: StoredFields): FieldCodec {
    const wrapped = fields[DATA_KEY]
    if ((wrapped !== undefined) !== (this.#encryption !== undefined))
      throw new CorruptSession(wrapped ? 'it is encrypted' : 'it is not encrypted')
    if (!this.#encryption || wrapped === undefined) return PLAIN
    try {
      return this.#encryption.open(token, wrapped)
    } catch (cause) {
      throw new CorruptSession('its data key cannot be opened', { cause })
    }
  }

  #follow(token: SessionToken, sealed: string): SessionToken | undefined {
    try {
      const verifier = this.#successors.open(token.verifier, this.#boundOf(token), sealed).toString()
      return this.#tokens.successor(token, verifier)
    } catch (cause) {
      if (cause instanceof UnknownSecret) return undefined
      throw new CorruptSession('the successor left by a renewal cannot be read', { cause })
    }
  }

  #boundOf(token: SessionToken): string {
    return `${this.#keys.session(token)}\n@s ${token.generation}`
  }
}

/** Texts as they are stored. */
export function encode(codec: FieldCodec, set: Changes['set']): (readonly [string, string])[] {
  return set.map(([field, text]) => [field, codec.encode(field, text)] as const)
}

function decode(codec: FieldCodec, field: string, stored: string): string {
  try {
    return codec.decode(field, stored)
  } catch (cause) {
    throw new CorruptSession(`field '${field}' cannot be decrypted`, { cause })
  }
}
