import { randomBytes } from 'node:crypto'
import { commandTimeoutOf, type RedisClient } from '@flotilla/redis'
import type { Cipher } from './cipher.js'
import type { RedisClock } from './clock.js'
import type { FieldCodec } from './field-codec.js'
import type { Keys, Owner } from './keys.js'
import { createAnonymous, createOwned } from './lua/create.js'
import { renewAnonymous, renewOwned, type RenewReply } from './lua/renew.js'
import { saveAnonymous, saveOwned } from './lua/save.js'
import { takeAnonymous, takeOwned, type TakeReply } from './lua/take.js'
import { updateAnonymous, updateOwned } from './lua/update.js'
import { ALIAS, META, type Meta, parseMeta, USER } from './meta.js'
import type { Ticket, Ticketing } from './ticket.js'

/** A session as Redis holds it. Shared between requests in `local` mode, so never changed. */
export interface Found {
  readonly ticket: Ticket
  readonly meta: Meta
  readonly userId: string | undefined
  /** Field name → stored text; the plugin's own fields begin with `@`. */
  readonly fields: Readonly<Record<string, string>>
}

/** What to write: texts by field name, as JSON. */
export interface Changes {
  readonly set: readonly (readonly [field: string, text: string])[]
  readonly remove: readonly string[]
}

/** Nothing to write: what moves only the deadline. */
export const NO_CHANGES: Changes = { set: [], remove: [] }

/** Where a session lives and whose it is. The ticket follows a renewal that another request made. */
export interface Place {
  ticket: Ticket
  readonly userHash: string | undefined
}

export interface CreateInput {
  readonly userId: string | undefined
  readonly owner: Owner | undefined
  readonly changes: Changes
  readonly device: string
}

/** `stored` is the field's text as Redis now holds it: what was written, or what stood in the way. */
export type UpdateResult = { readonly stored: string | undefined; readonly written: boolean } | undefined

/** `undefined` where the session is gone. */
export type TakeResult = { readonly found: Found; readonly taken: boolean } | undefined

/** Every Redis command on one session: one HGETALL to read, one script for anything that writes. */
export interface SessionStore {
  /** `undefined` where there is none. @throws CorruptSession */
  load(ticket: Ticket): Promise<Found | undefined>
  /** @returns the creation time by Redis's clock */
  create(ticket: Ticket, input: CreateInput): Promise<number>
  /** Without changes: moves the idle deadline. @returns Redis's time, `undefined` where the session is gone */
  save(place: Place, changes?: Changes): Promise<number | undefined>
  /**
   * One try of compare-and-set. `undefined` where the session is gone.
   * @param expected the text as stored (encrypted, it differs each time it is written)
   * @param next the new text, as JSON
   */
  update(place: Place, field: string, expected: string | undefined, next: string): Promise<UpdateResult>
  /** Moves the session to a new id; `undefined` where it is gone or was written to meanwhile. */
  renew(found: Found, place: Place, grace: number): Promise<Ticket | undefined>
  /** Ends it and returns what it held. @throws CorruptSession */
  take(place: Place): Promise<Found | undefined>
  /**
   * Ends it if it was not written to since, and only while the caller still waits; returns what it holds.
   * @param revision of the last write known, or `undefined` to end it in any case
   * @throws CorruptSession
   */
  takeUnchanged(place: Place, revision: number | undefined): Promise<TakeResult>
  /** The key that decides which node answers for this session. */
  keyOf(ticket: Ticket): string
}

/** What is stored under the key is not a session of ours, or cannot be read. */
export class CorruptSession extends Error {}

const HOPS = 3
const LATE_TRIES = 4

export interface StoreParts {
  readonly client: RedisClient
  readonly keys: Keys
  readonly codec: FieldCodec
  readonly aliases: Cipher
  readonly ticketing: Ticketing
  readonly clock: RedisClock
  readonly idleTimeout: number
  readonly absoluteTimeout: number
  readonly version: number
}

export function createStore(parts: StoreParts): SessionStore {
  const { client, keys, codec, aliases, ticketing, clock, idleTimeout, absoluteTimeout, version } = parts
  const keyOf = ({ tag, hash }: Ticket): string => keys.session(tag, hash)

  const keysOf = ({ ticket, userHash }: Place): string[] => {
    if (userHash === undefined) return [keyOf(ticket)]
    const owner = { tag: ticket.tag, userHash }
    return [keyOf(ticket), keys.index(owner), keys.devices(owner)]
  }

  const follow = (ticket: Ticket, alias: string): Ticket => {
    try {
      return ticketing.restore(ticket.tag, aliases.open(ticket.id, keyOf(ticket), alias))
    } catch (cause) {
      throw new CorruptSession('the alias left by a renewal cannot be read', { cause })
    }
  }

  /** Repeats an operation on the id that an alias leads to. */
  const following = async <Reply extends readonly [number, ...unknown[]]>(
    place: Place,
    run: () => Promise<Reply | readonly [2, string]>
  ): Promise<Reply> => {
    for (let hop = 0; hop < HOPS; hop++) {
      const reply = await run()
      if (reply[0] !== 2) {
        if (reply[0] === 1 && typeof reply[1] === 'number') clock.observe(reply[1])
        return reply as Reply
      }
      place.ticket = follow(place.ticket, reply[1] as string)
    }
    throw new CorruptSession('aliases lead in a circle')
  }

  const encode = (ticket: Ticket, set: Changes['set']): string[] => {
    const flat: string[] = []
    for (const [field, text] of set) flat.push(field, codec.encode(ticket, field, text))
    return flat
  }

  const read = (ticket: Ticket, fields: Readonly<Record<string, string>>): Found => {
    const meta = fields[META] === undefined ? undefined : parseMeta(fields[META])
    if (!meta) throw new CorruptSession('its meta field cannot be read')
    const user = fields[USER]
    if ((user === undefined) !== (meta.userHash === undefined))
      throw new CorruptSession('its user field is missing')
    return { ticket, meta, userId: user === undefined ? undefined : codec.decode(ticket, USER, user), fields }
  }

  const readFlat = (ticket: Ticket, flat: readonly string[]): Found => {
    const fields: Record<string, string> = {}
    for (let i = 0; i < flat.length; i += 2) fields[flat[i]!] = flat[i + 1]!
    return read(ticket, fields)
  }

  const runTake = async (
    place: Place,
    revision: number | '-',
    latest: number | '-'
  ): Promise<Exclude<TakeReply, readonly [2, string]>> => {
    const script = place.userHash === undefined ? takeAnonymous : takeOwned
    return await following<Exclude<TakeReply, readonly [2, string]>>(place, () =>
      script.run(client, keysOf(place), [revision, latest])
    )
  }

  return {
    keyOf,

    async load(ticket) {
      let at = ticket
      for (let hop = 0; hop < HOPS; hop++) {
        const fields = await client.hgetall(keyOf(at))
        if (fields[META] !== undefined) return read(at, fields)
        const alias = fields[ALIAS]
        if (alias === undefined) {
          for (const _ in fields) throw new CorruptSession('its meta field is missing')
          return undefined
        }
        at = follow(at, alias)
      }
      throw new CorruptSession('aliases lead in a circle')
    },

    async create(ticket, { userId, owner, changes, device }) {
      const set = userId === undefined ? changes.set : [...changes.set, [USER, userId] as const]
      const script = owner ? createOwned : createAnonymous
      const [, now] = await script.run(client, keysOf({ ticket, userHash: owner?.userHash }), [
        idleTimeout,
        absoluteTimeout,
        version,
        ticket.hash,
        owner?.userHash ?? '-',
        device,
        ...encode(ticket, set)
      ])
      clock.observe(now)
      return now
    },

    async save(place, { set, remove } = NO_CHANGES) {
      const script = place.userHash === undefined ? saveAnonymous : saveOwned
      const reply = await following(place, () =>
        script.run(client, keysOf(place), [
          idleTimeout,
          version,
          set.length,
          ...encode(place.ticket, set),
          ...remove
        ])
      )
      return reply[0] === 1 ? reply[1] : undefined
    },

    async update(place, field, expected, next) {
      const script = place.userHash === undefined ? updateAnonymous : updateOwned
      const mark = randomBytes(6).toString('base64url')
      let stored = ''
      const reply = await following(place, () => {
        stored = codec.encode(place.ticket, field, next)
        const known = expected === undefined ? '0' : '1'
        return script.run(client, keysOf(place), [idleTimeout, field, mark, known, expected ?? '', stored])
      })
      if (reply[0] === 0) return undefined
      return reply[0] === 1 ? { stored, written: true } : { stored: reply[1], written: false }
    },

    async renew(found, place, grace) {
      const next = ticketing.issue(place.ticket.tag)
      const moved: string[] = []
      if (codec.sealed) {
        for (const [field, stored] of Object.entries(found.fields)) {
          if (field === META || field === '@n') continue
          moved.push(field, codec.encode(next, field, codec.decode(found.ticket, field, stored)))
        }
      }
      const [session, ...index] = keysOf(place)
      const script = place.userHash === undefined ? renewAnonymous : renewOwned
      const reply: RenewReply = await script.run(
        client,
        [session!, keyOf(next), ...index],
        [
          idleTimeout,
          grace,
          aliases.seal(place.ticket.id, keyOf(place.ticket), next.id),
          next.hash,
          codec.sealed ? found.meta.revision : '-',
          ...moved
        ]
      )
      if (reply[0] === 2) return follow(place.ticket, reply[1])
      if (reply[0] !== 1) return undefined
      clock.observe(reply[1])
      return next
    },

    async take(place) {
      const reply = await runTake(place, '-', '-')
      return reply[0] === 1 ? readFlat(place.ticket, reply[1]) : undefined
    },

    async takeUnchanged(place, revision) {
      for (let attempt = 0; attempt < LATE_TRIES; attempt++) {
        const latest = Math.round(clock.now() + commandTimeoutOf(client) / 2)
        const reply = await runTake(place, revision ?? '-', latest)
        if (reply[0] === 0) return undefined
        if (reply[0] !== 4) return { found: readFlat(place.ticket, reply[1]), taken: reply[0] === 1 }
        clock.observe(reply[1])
      }
      throw new Error('Redis takes longer to get round to a command than its client waits')
    }
  }
}
