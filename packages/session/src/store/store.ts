import { randomBytes } from 'node:crypto'
import { commandTimeoutOf, type RedisClient } from '@flotilla/redis'
import type { Cipher } from './cipher.js'
import type { RedisClock } from './clock.js'
import type { FieldCodec } from './field-codec.js'
import type { Keys, Owner } from './keys.js'
import { createAnonymous, createOwned } from './lua/create.js'
import { renewAnonymous, renewOwned } from './lua/renew.js'
import { saveAnonymous, saveOwned } from './lua/save.js'
import { takeAnonymous, takeOwned, type TakeReply } from './lua/take.js'
import { updateAnonymous, updateOwned } from './lua/update.js'
import { ALIAS, ENDED, META, type Meta, parseMeta, USER } from './meta.js'
import type { Ticket, Ticketing } from './token.js'

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
  /** Of the shape of its data. */
  readonly version: number
}

/** `stored` is the field's text as Redis now holds it: what was written, or what stood in the way. */
export type UpdateResult = { readonly stored: string | undefined; readonly written: boolean } | undefined

/**
 * `undefined` where the session is gone. `'repeated'`: the call was sent again, as its first reply was lost; that one
 * ended the session as it was known.
 */
export type TakeResult = { readonly found: Found; readonly taken: boolean } | 'repeated' | undefined

/**
 * The id a session has now (`moved` is false where somebody else had just given it that), or why it has none new:
 * `gone` is the session, `busy` are others who wrote to it at each try.
 */
export type Renewal = { readonly ticket: Ticket; readonly moved: boolean } | 'gone' | 'busy'

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
  /**
   * Moves the session to a new id.
   * @param grace milliseconds for which the old id leads on. With 0 a renewal by somebody else is not enough: the id
   *   that one made is ended as well
   * @throws CorruptSession
   */
  renew(found: Found, place: Place, grace: number): Promise<Renewal>
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

// Two renewals fit into a grace; there are more where instances differ in their options or clocks.
const HOPS = 5
const LATE_TRIES = 4
/** How often a renewal is tried where others write to the session. */
export const RENEW_TRIES = 5

/** By which a script knows a call that the client sends again. */
const newMark = (): string => randomBytes(6).toString('base64url')

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

  // Not corrupt, only not reached from this id: aliases go with their grace, and trying again may help.
  const tooFar = (): Error => new Error('the id of this session was renewed more often than is followed')

  /** Repeats an operation on the id that an alias leads to. The place moves only once the session is reached. */
  const following = async <Reply extends readonly [number, ...unknown[]]>(
    place: Place,
    run: (at: Place) => Promise<Reply | readonly [2, string]>
  ): Promise<Reply> => {
    let at = place
    for (let hop = 0; hop < HOPS; hop++) {
      const reply = await run(at)
      if (reply[0] !== 2) {
        if (reply[0] === 1 && typeof reply[1] === 'number') clock.observe(reply[1])
        place.ticket = at.ticket
        return reply as Reply
      }
      at = { ticket: follow(at.ticket, reply[1] as string), userHash: place.userHash }
    }
    throw tooFar()
  }

  const encode = (ticket: Ticket, set: Changes['set']): string[] => {
    const flat: string[] = []
    for (const [field, text] of set) flat.push(field, codec.encode(ticket, field, text))
    return flat
  }

  /** All fields but those that a write makes anew, sealed under another id. */
  const reseal = ({ ticket, fields }: Found, next: Ticket): string[] => {
    const flat: string[] = []
    for (const [field, stored] of Object.entries(fields)) {
      if (field === META || field === '@n') continue
      flat.push(field, codec.encode(next, field, codec.decode(ticket, field, stored)))
    }
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
    latest: number | '-',
    mark: string
  ): Promise<Exclude<TakeReply, readonly [2, string]>> => {
    const script = place.userHash === undefined ? takeAnonymous : takeOwned
    return await following<Exclude<TakeReply, readonly [2, string]>>(place, (at) =>
      script.run(client, keysOf(at), [revision, latest, mark, 2 * commandTimeoutOf(client)])
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
          if (fields[ENDED] !== undefined) return undefined
          for (const _ in fields) throw new CorruptSession('its meta field is missing')
          return undefined
        }
        at = follow(at, alias)
      }
      throw tooFar()
    },

    async create(ticket, { userId, owner, changes, device, version: shape }) {
      const set = userId === undefined ? changes.set : [...changes.set, [USER, userId] as const]
      const script = owner ? createOwned : createAnonymous
      const [, now] = await script.run(client, keysOf({ ticket, userHash: owner?.userHash }), [
        idleTimeout,
        absoluteTimeout,
        shape,
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
      const reply = await following(place, (at) =>
        script.run(client, keysOf(at), [
          idleTimeout,
          version,
          set.length,
          ...encode(at.ticket, set),
          ...remove
        ])
      )
      return reply[0] === 1 ? reply[1] : undefined
    },

    async update(place, field, expected, next) {
      const script = place.userHash === undefined ? updateAnonymous : updateOwned
      const mark = newMark()
      let stored = ''
      const reply = await following(place, (at) => {
        stored = codec.encode(at.ticket, field, next)
        const known = expected === undefined ? '0' : '1'
        return script.run(client, keysOf(at), [idleTimeout, field, mark, known, expected ?? '', stored])
      })
      if (reply[0] === 0) return undefined
      return reply[0] === 1 ? { stored, written: true } : { stored: reply[1], written: false }
    },

    async renew(found, place, grace) {
      const next = ticketing.issue(place.ticket.tag)
      const script = place.userHash === undefined ? renewAnonymous : renewOwned
      let at = place
      // What was written in this request or by others since is not in `found`: then the script tells what there is.
      let known = found
      for (let attempt = 0; attempt < RENEW_TRIES; attempt++) {
        const [session, ...index] = keysOf(at)
        const reply = await script.run(
          client,
          [session!, keyOf(next), ...index],
          [
            idleTimeout,
            grace,
            aliases.seal(at.ticket.id, keyOf(at.ticket), next.id),
            next.hash,
            ...(codec.sealed ? [known.meta.revision, ...reseal(known, next)] : ['-'])
          ]
        )
        if (reply[0] === 0) return 'gone'
        if (reply[0] === 1) {
          clock.observe(reply[1])
          return { ticket: next, moved: true }
        }
        if (reply[0] === 3) {
          known = readFlat(at.ticket, reply[1])
          continue
        }
        const ticket = follow(at.ticket, reply[1])
        if (grace > 0) return { ticket, moved: false }
        at = { ticket, userHash: place.userHash }
      }
      return 'busy'
    },

    async take(place) {
      const reply = await runTake(place, '-', '-', '-')
      return reply[0] === 1 ? readFlat(place.ticket, reply[1]) : undefined
    },

    async takeUnchanged(place, revision) {
      const mark = newMark()
      for (let attempt = 0; attempt < LATE_TRIES; attempt++) {
        const latest = Math.round(clock.now() + commandTimeoutOf(client) / 2)
        const reply = await runTake(place, revision ?? '-', latest, mark)
        if (reply[0] === 0) return undefined
        if (reply[0] === 5) return 'repeated'
        if (reply[0] !== 4) return { found: readFlat(place.ticket, reply[1]), taken: reply[0] === 1 }
        clock.observe(reply[1])
      }
      throw new Error('Redis takes longer to get round to a command than its client waits')
    }
  }
}
