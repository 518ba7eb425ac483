import type { Keys, Owner, SessionKey } from './keys.js'
import { DATA_KEY, formatMeta, type Meta, META, REPLACED, SUCCESSOR, VERIFIER } from './meta.js'
import type { RedisClock } from './clock.js'
import type {
  Changes,
  CreateInput,
  CreateResult,
  IndexEntry,
  PresentInput,
  PresentResult,
  RenewInput,
  RenewResult,
  ReplaceResult,
  SessionStore,
  StoredFields,
  TokenStatus,
  UpdateInput,
  UpdateResult
} from './session-store.js'

interface Verifier {
  readonly generation: number
  readonly hash: string
  readonly previous: string | undefined
  /** When the previous one ends; `undefined` until its successor has been presented. */
  readonly over: number | undefined
}

interface Entry {
  readonly name: string
  readonly ref: string
  /** Undefined before login. */
  readonly owner: string | undefined
  readonly device: string
  readonly fields: Map<string, string>
  meta: Meta
  verifier: Verifier
  expiresAt: number
}

export interface MemoryStoreSettings {
  readonly idleTimeout: number
  /** Of the data's shape. */
  readonly version: number
}

/** How many sessions a new one looks at: so expired ones are removed faster than others are added, without a timer. */
const SWEPT = 20
/** As in Redis: how long is remembered that a session was replaced. */
const REPLACED_MS = 5 * 60_000

/**
 * Sessions in this process's memory. Each operation runs from its beginning to its end before any other one, so all are atomic. What
 * they mean is what the scripts of `store/lua` mean; one contract suite holds for both.
 */
export class MemoryStore implements SessionStore {
  readonly #keys: Keys
  readonly #clock: RedisClock
  readonly #settings: MemoryStoreSettings
  readonly #entries = new Map<string, Entry>()
  readonly #byOwner = new Map<string, Map<string, Entry>>()
  /** Until when each name counts as replaced, the oldest first. */
  readonly #replaced = new Map<string, number>()
  #sweeper = this.#entries.values()

  constructor(keys: Keys, clock: RedisClock, settings: MemoryStoreSettings) {
    this.#keys = keys
    this.#clock = clock
    this.#settings = settings
  }

  /** Sessions in memory, expired ones that were not removed yet included. */
  get size(): number {
    return this.#entries.size
  }

  async read(key: SessionKey): Promise<StoredFields> {
    const entry = this.#find(key)
    if (entry) return fieldsOf(entry)
    return (this.#replaced.get(this.#keys.session(key)) ?? 0) > this.#now() ? { [REPLACED]: '-' } : {}
  }

  async present(key: SessionKey, input: PresentInput): Promise<PresentResult> {
    const now = this.#now()
    const entry = this.#find(key)
    if (!entry) return { status: 'ended', now, fields: {} }
    const status = present(entry, input, now)
    if (status === 'reused' && input.endReused) this.#remove(entry)
    const opens = status === 'current' || status === 'previous'
    return { status, now, fields: opens ? fieldsOf(entry) : {} }
  }

  async create(key: SessionKey, input: CreateInput): Promise<CreateResult> {
    const now = this.#now()
    this.#sweep(now)
    const owner = key.userHash === undefined ? undefined : ownerName({ ...key, userHash: key.userHash })
    const ended: string[] = []
    if (owner !== undefined && input.limit) {
      const others = this.#of(owner).filter(({ ref }) => ref !== input.replaces)
      const beyond = others.length - input.limit.max + 1
      if (beyond > 0 && !input.limit.endOldest) return { refused: true, now }
      others.sort((a, b) => a.meta.createdAt - b.meta.createdAt || (a.ref < b.ref ? -1 : 1))
      for (const oldest of others.slice(0, Math.max(0, beyond))) {
        this.#remove(oldest)
        ended.push(oldest.ref)
      }
    }
    const entry: Entry = {
      name: this.#keys.session(key),
      ref: key.ref,
      owner,
      device: input.device,
      fields: new Map(input.fields),
      meta: {
        createdAt: now,
        absoluteAt: now + input.absoluteTimeout,
        touchedAt: now,
        renewedAt: now,
        authenticatedAt: owner === undefined ? 0 : now,
        revision: 1,
        version: input.version,
        idleTimeout: input.idleTimeout,
        persistent: input.persistent,
        userHash: key.userHash
      },
      verifier: { generation: 1, hash: input.verifierHash, previous: undefined, over: 0 },
      expiresAt: 0
    }
    this.#setDeadline(entry, now)
    this.#entries.set(entry.name, entry)
    if (owner !== undefined) {
      const theirs = this.#byOwner.get(owner) ?? new Map<string, Entry>()
      this.#byOwner.set(owner, theirs.set(entry.ref, entry))
    }
    return { now, ended }
  }

  async save(key: SessionKey, changes: Changes): Promise<number | undefined> {
    return this.#write(key, ({ fields, meta }) => {
      for (const [field, text] of changes.set) fields.set(field, text)
      for (const field of changes.remove) fields.delete(field)
      return { version: Math.max(meta.version, this.#settings.version) }
    })
  }

  async authenticate(key: SessionKey): Promise<number | undefined> {
    return this.#write(key, (_entry, now) => ({ authenticatedAt: now }))
  }

  async update(key: SessionKey, { field, expected, next }: UpdateInput): Promise<UpdateResult> {
    const entry = this.#find(key)
    if (!entry) return undefined
    const stored = entry.fields.get(field)
    if (stored !== expected) return { written: false, stored, now: this.#now() }
    const now = this.#write(key, ({ fields }) => {
      fields.set(field, next)
      return {}
    })
    return now === undefined ? undefined : { written: true, stored: next, now }
  }

  async renew(key: SessionKey, input: RenewInput): Promise<RenewResult> {
    const entry = this.#find(key)
    if (!entry) return { status: 'ended' }
    const { generation, hash, previous, over } = entry.verifier
    if (generation === input.generation + 1 && hash === input.verifierHash)
      return { status: 'renewed', now: this.#now() }
    if (generation !== input.generation)
      return { status: 'raced', generation, successor: entry.fields.get(SUCCESSOR) }
    const immediate = input.successor === undefined
    if (!immediate && previous !== undefined && (over === undefined || this.#now() < over))
      return { status: 'recent' }
    const now = this.#write(key, ({ fields }, at) => {
      entry.verifier = {
        generation: generation + 1,
        hash: input.verifierHash,
        previous: immediate ? undefined : hash,
        over: immediate ? 0 : undefined
      }
      if (input.successor === undefined) fields.delete(SUCCESSOR)
      else fields.set(SUCCESSOR, input.successor)
      if (input.dataKey !== undefined) fields.set(DATA_KEY, input.dataKey)
      return { renewedAt: at }
    })
    return now === undefined ? { status: 'ended' } : { status: 'renewed', now }
  }

  async end(key: SessionKey): Promise<boolean> {
    const entry = this.#find(key)
    if (entry) this.#remove(entry)
    return entry !== undefined
  }

  async replace(key: SessionKey, revision: number | undefined): Promise<ReplaceResult> {
    const entry = this.#find(key)
    if (!entry) return { status: 'ended' }
    const fields = fieldsOf(entry)
    if (revision !== undefined && revision !== entry.meta.revision) return { status: 'changed', fields }
    this.#remove(entry)
    await this.markReplaced(key)
    return { status: 'replaced', fields }
  }

  async remove(key: SessionKey): Promise<void> {
    await this.end(key)
  }

  async markReplaced(key: SessionKey): Promise<void> {
    const now = this.#now()
    for (const [name, until] of this.#replaced) {
      if (until > now) break
      this.#replaced.delete(name)
    }
    const name = this.#keys.session(key)
    if (!this.#replaced.has(name)) this.#replaced.set(name, now + REPLACED_MS)
  }

  async list(owner: Owner): Promise<IndexEntry[]> {
    return this.#of(ownerName(owner)).map(({ ref, expiresAt, meta, device }) => ({
      ref,
      expiresAt,
      createdAt: meta.createdAt,
      seenAt: meta.touchedAt,
      device
    }))
  }

  async exist(keys: readonly SessionKey[]): Promise<boolean[]> {
    return keys.map((key) => this.#find(key) !== undefined)
  }

  async revoke(owner: Owner, refs: readonly string[]): Promise<string[]> {
    const wanted = new Set(refs)
    const theirs = this.#of(ownerName(owner)).filter(({ ref }) => wanted.has(ref))
    for (const entry of theirs) this.#remove(entry)
    return theirs.map(({ ref }) => ref)
  }

  /** There are none to wait for. */
  async waitForReplicas(): Promise<void> {}

  /** Whole milliseconds, as Redis has them. */
  #now(): number {
    return Math.floor(this.#clock.now())
  }

  #find(key: Pick<SessionKey, 'tag' | 'ref'>): Entry | undefined {
    const entry = this.#entries.get(this.#keys.session(key))
    if (!entry || entry.expiresAt > this.#now()) return entry
    this.#remove(entry)
    return undefined
  }

  /** Those of a user that have not ended. */
  #of(owner: string): Entry[] {
    const now = this.#now()
    const living: Entry[] = []
    for (const entry of this.#byOwner.get(owner)?.values() ?? []) {
      if (entry.expiresAt > now) living.push(entry)
      else this.#remove(entry)
    }
    return living
  }

  /** Runs a change and moves the deadline. @returns the time, `undefined` if the session has ended */
  #write(key: SessionKey, change: (entry: Entry, now: number) => Partial<Meta>): number | undefined {
    const entry = this.#find(key)
    if (!entry) return undefined
    const now = this.#now()
    const changed = change(entry, now)
    entry.meta = { ...entry.meta, touchedAt: now, revision: entry.meta.revision + 1, ...changed }
    this.#setDeadline(entry, now)
    return now
  }

  #setDeadline(entry: Entry, now: number): void {
    const { absoluteAt, idleTimeout } = entry.meta
    entry.expiresAt = Math.min(now + (idleTimeout || this.#settings.idleTimeout), absoluteAt)
  }

  #remove(entry: Entry): void {
    this.#entries.delete(entry.name)
    if (entry.owner === undefined) return
    const theirs = this.#byOwner.get(entry.owner)
    theirs?.delete(entry.ref)
    if (theirs?.size === 0) this.#byOwner.delete(entry.owner)
  }

  #sweep(now: number): void {
    for (let n = 0; n < SWEPT; n++) {
      const { value, done } = this.#sweeper.next()
      if (done) {
        this.#sweeper = this.#entries.values()
        return
      }
      if (value.expiresAt <= now) this.#remove(value)
    }
  }
}

const ownerName = ({ tag, userHash }: Owner): string => `${tag}:${userHash}`

function fieldsOf({ fields, meta, verifier }: Entry): StoredFields {
  const { generation, hash, previous = '-', over = '-' } = verifier
  return {
    ...Object.fromEntries(fields),
    [META]: formatMeta(meta),
    [VERIFIER]: `${generation} ${hash} ${previous} ${over}`
  }
}

/** What a token is worth. The first time that a present one is presented, the grace of the previous one begins. */
function present(entry: Entry, input: PresentInput, now: number): TokenStatus {
  const { generation, hash, previous, over } = entry.verifier
  if (input.generation > generation && input.adopt) {
    entry.verifier = {
      generation: input.generation,
      hash: input.verifierHash,
      previous: hash,
      over: now + input.grace
    }
    entry.fields.delete(SUCCESSOR)
    return 'current'
  }
  if (input.generation === generation && input.verifierHash === hash) {
    if (over === undefined) entry.verifier = { ...entry.verifier, over: now + input.grace }
    return 'current'
  }
  if (input.generation >= generation) return 'void'
  if (input.generation === generation - 1) {
    if (input.verifierHash !== previous) return 'void'
    if (over === undefined || now < over) return 'previous'
  }
  return 'reused'
}
