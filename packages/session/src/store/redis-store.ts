import { randomBytes } from 'node:crypto'
import { commandTimeoutOf, type RedisClient, runGrouped, waitForReplicas } from '@flotilla/redis'
import type { RedisClock } from './clock.js'
import type { Keys, Owner, SessionKey } from './keys.js'
import { createAnonymous, createOwned } from './lua/create.js'
import { endAnonymous, endOwned } from './lua/end.js'
import { listSessions } from './lua/list.js'
import { presentAnonymous, presentOwned, type PresentReply } from './lua/present.js'
import { renewAnonymous, renewOwned } from './lua/renew.js'
import { replaceAnonymous, replaceOwned } from './lua/replace.js'
import { revokeScript } from './lua/revoke.js'
import { saveAnonymous, saveOwned } from './lua/save.js'
import { updateAnonymous, updateOwned } from './lua/update.js'
import { META, REPLACED } from './meta.js'
import {
  type Changes,
  type CreateInput,
  type CreateResult,
  type IndexEntry,
  NO_CHANGES,
  type PresentInput,
  type PresentResult,
  type RenewInput,
  type RenewResult,
  type ReplaceResult,
  type SessionStore,
  type StoredFields,
  type TokenStatus,
  type UpdateInput,
  type UpdateResult
} from './session-store.js'

/** The client waits longer for the server than it is willing to let a command be carried out. */
const LATE_TRIES = 4
/** Sessions ended by one script; a user with more has several run. */
const REVOKE_BATCH = 200
/** How long is remembered that a session was replaced, so that a request under way does not clear the cookie of its successor. */
const REPLACED_MS = 5 * 60_000

const STATUSES: Record<1 | 2 | 3 | 4, TokenStatus> = { 1: 'current', 2: 'previous', 3: 'void', 4: 'reused' }

/** By which a script knows a call that the client sends again. */
const newMark = (): string => randomBytes(6).toString('base64url')

export interface RedisStoreSettings {
  readonly idleTimeout: number
  /** Of the data's shape. */
  readonly version: number
}

/** Sessions in Redis: one HGETALL to read, one script for anything that writes, each within one slot. */
export class RedisStore implements SessionStore {
  readonly #client: RedisClient
  readonly #keys: Keys
  readonly #clock: RedisClock
  readonly #settings: RedisStoreSettings

  constructor(client: RedisClient, keys: Keys, clock: RedisClock, settings: RedisStoreSettings) {
    this.#client = client
    this.#keys = keys
    this.#clock = clock
    this.#settings = settings
  }

  read(key: SessionKey): Promise<StoredFields> {
    return this.#client.hgetall(this.#keys.session(key))
  }

  async present(key: SessionKey, input: PresentInput): Promise<PresentResult> {
    const script = key.userHash === undefined ? presentAnonymous : presentOwned
    const reply: PresentReply = await script.run(this.#client, this.#keys.all(key), [
      input.generation,
      input.verifierHash,
      input.grace,
      input.endReused ? 1 : 0,
      input.adopt ? 1 : 0
    ])
    if (reply[0] === 0) return { status: 'ended', now: this.#clock.now(), fields: {} }
    this.#clock.observe(reply[1])
    return { status: STATUSES[reply[0]], now: reply[1], fields: reply[2] ? fieldsOf(reply[2]) : {} }
  }

  async create(key: SessionKey, input: CreateInput): Promise<CreateResult> {
    const script = key.userHash === undefined ? createAnonymous : createOwned
    const reply = await script.run(this.#client, this.#keys.all(key), [
      this.#settings.idleTimeout,
      input.absoluteTimeout,
      input.version,
      input.idleTimeout,
      input.persistent === undefined ? '-' : Number(input.persistent),
      key.userHash ?? '-',
      input.verifierHash,
      input.device,
      input.limit?.max ?? 0,
      input.limit?.endOldest ? 1 : 0,
      input.replaces ?? '-',
      ...input.fields.flat()
    ])
    this.#clock.observe(reply[1])
    return reply[0] === 2 ? { refused: true, now: reply[1] } : { now: reply[1], ended: reply[2] }
  }

  async save(key: SessionKey, { set, remove }: Changes): Promise<number | undefined> {
    return await this.#save(key, 0, [set.length, ...set.flat(), ...remove])
  }

  async authenticate(key: SessionKey): Promise<number | undefined> {
    return await this.#save(key, 1, [NO_CHANGES.set.length])
  }

  async update(key: SessionKey, { field, expected, next }: UpdateInput): Promise<UpdateResult> {
    const script = key.userHash === undefined ? updateAnonymous : updateOwned
    const known = expected === undefined ? 0 : 1
    const args = [this.#settings.idleTimeout, field, newMark(), known, expected ?? '', next]
    const reply = await script.run(this.#client, this.#keys.all(key), args)
    if (reply[0] === 0) return undefined
    this.#clock.observe(reply[1])
    return reply[0] === 1
      ? { written: true, stored: next, now: reply[1] }
      : { written: false, stored: reply[2], now: reply[1] }
  }

  async renew(key: SessionKey, input: RenewInput): Promise<RenewResult> {
    const script = key.userHash === undefined ? renewAnonymous : renewOwned
    const reply = await script.run(this.#client, this.#keys.all(key), [
      this.#settings.idleTimeout,
      input.generation,
      input.verifierHash,
      input.successor ?? '-',
      input.dataKey ?? '-'
    ])
    if (reply[0] === 0) return { status: 'ended' }
    if (reply[0] === 3) return { status: 'recent' }
    if (reply[0] === 2) return { status: 'raced', generation: reply[1], successor: reply[2] || undefined }
    this.#clock.observe(reply[1])
    return { status: 'renewed', now: reply[1] }
  }

  async end(key: SessionKey): Promise<boolean> {
    const script = key.userHash === undefined ? endAnonymous : endOwned
    return (await script.run(this.#client, this.#keys.all(key)))[0] === 1
  }

  async replace(key: SessionKey, revision: number | undefined): Promise<ReplaceResult> {
    const script = key.userHash === undefined ? replaceAnonymous : replaceOwned
    const mark = newMark()
    for (let attempt = 0; attempt < LATE_TRIES; attempt++) {
      const latest = Math.round(this.#clock.now() + commandTimeoutOf(this.#client) / 2)
      const args = [revision ?? '-', latest, mark, REPLACED_MS]
      const reply = await script.run(this.#client, this.#keys.all(key), args)
      if (reply[0] === 0) return { status: 'ended' }
      if (reply[0] === 5) return { status: 'repeated' }
      if (reply[0] !== 4)
        return { status: reply[0] === 1 ? 'replaced' : 'changed', fields: fieldsOf(reply[1]) }
      this.#clock.observe(reply[1])
    }
    throw new Error('Redis takes longer to get round to a command than its client waits')
  }

  async markReplaced(key: SessionKey): Promise<void> {
    const name = this.#keys.session(key)
    const pipeline = this.#client.pipeline()
    // Never in the place of a session that is there.
    pipeline.hsetnx(name, REPLACED, newMark()).pexpire(name, REPLACED_MS, 'NX')
    await pipeline.exec()
  }

  async remove(key: SessionKey): Promise<void> {
    await this.#client.del(this.#keys.session(key))
  }

  async readClock(): Promise<void> {
    const [seconds, micros] = (await this.#client.time()).map(Number)
    this.#clock.observe(seconds! * 1_000 + micros! / 1_000)
  }

  async list(owner: Owner): Promise<IndexEntry[]> {
    const lists = [this.#keys.index(owner), this.#keys.devices(owner)]
    const [, scores, texts] = await listSessions.run(this.#client, lists)
    const details = fieldsOf(texts)
    const entries: IndexEntry[] = []
    for (let i = 0; i < scores.length; i += 2) {
      const ref = scores[i]!
      const [createdAt, seenAt] = (details[`${ref}:t`] ?? '').split(' ').map(Number)
      entries.push({ ref, expiresAt: Number(scores[i + 1]), createdAt, seenAt, device: details[ref] ?? '' })
    }
    return entries
  }

  async exist(keys: readonly SessionKey[]): Promise<boolean[]> {
    const names = keys.map((key) => this.#keys.session(key))
    const there = await runGrouped(this.#client, names, (pipeline, name) => void pipeline.hexists(name, META))
    return there.map((one) => one === 1)
  }

  async revoke(owner: Owner, refs: readonly string[]): Promise<string[]> {
    const ended: string[] = []
    for (let at = 0; at < refs.length; at += REVOKE_BATCH) {
      const batch = refs.slice(at, at + REVOKE_BATCH)
      const names = batch.map((ref) => this.#keys.session({ tag: owner.tag, ref }))
      const all = [this.#keys.index(owner), this.#keys.devices(owner), ...names]
      ended.push(...(await revokeScript(batch.length).run(this.#client, all, [owner.userHash])))
    }
    return ended
  }

  async waitForReplicas(
    of: Owner | SessionKey,
    wanted: { replicas: number; timeout: number }
  ): Promise<void> {
    const key = 'ref' in of ? this.#keys.session(of) : this.#keys.index(of)
    await waitForReplicas(this.#client, { key, ...wanted })
  }

  async #save(key: SessionKey, proved: 0 | 1, rest: (string | number)[]): Promise<number | undefined> {
    const script = key.userHash === undefined ? saveAnonymous : saveOwned
    const { idleTimeout, version } = this.#settings
    const reply = await script.run(this.#client, this.#keys.all(key), [idleTimeout, version, proved, ...rest])
    if (reply[0] === 0) return undefined
    this.#clock.observe(reply[1])
    return reply[1]
  }
}

function fieldsOf(flat: readonly string[]): Record<string, string> {
  const fields: Record<string, string> = {}
  for (let i = 0; i < flat.length; i += 2) fields[flat[i]!] = flat[i + 1]!
  return fields
}
