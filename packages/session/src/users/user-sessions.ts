import type { RevocationPublisher } from '../lifecycle/revocation-publisher.js'
import type { SessionLifecycle } from '../lifecycle/session-lifecycle.js'
import type { StoreErrors } from '../lifecycle/store-errors.js'
import type { Keys, Owner } from '../store/keys.js'
import type { LocalSessions } from '../store/local-sessions.js'
import { isTime, LATEST } from '../store/meta.js'
import type { IndexEntry, SessionStore } from '../store/session-store.js'
import type { Devices } from './devices.js'

/** One of a user's sessions, as a page of "your devices" shows it. */
export interface SessionInfo {
  /** Names the session in `revoke`; not a secret. */
  readonly ref: string
  /** When the user logged in. */
  readonly createdAt: Date
  /** Accurate to `touchInterval`. */
  readonly lastSeenAt: Date
  /** When it ends if it is not used again. */
  readonly expiresAt: Date
  /** Of the login. */
  readonly ip: string | undefined
  /** Of the login. */
  readonly userAgent: string | undefined
  /** What `login` was given. */
  readonly label: string | undefined
}

export interface UserSessionsParts {
  readonly store: SessionStore
  readonly keys: Keys
  readonly devices: Devices
  readonly local: LocalSessions | undefined
  readonly errors: StoreErrors
  readonly publisher: RevocationPublisher
  readonly lifecycle: SessionLifecycle
}

interface Owned {
  readonly owner: Owner
  readonly entry: IndexEntry
}

const REF = /^[\w-]{43}$/

/** A user's sessions across all instances. */
export class UserSessions {
  readonly #parts: UserSessionsParts

  constructor(parts: UserSessionsParts) {
    this.#parts = parts
  }

  async list(userId: string): Promise<SessionInfo[]> {
    const living = await this.#parts.errors.ask('list', () => this.#living(userId))
    return living
      .map((one) => this.#infoOf(one))
      .sort((a, b) => b.lastSeenAt.getTime() - a.lastSeenAt.getTime())
  }

  async count(userId: string): Promise<number> {
    return (await this.#parts.errors.ask('count', () => this.#living(userId))).length
  }

  async revoke(userId: string, ref: string): Promise<boolean> {
    const { errors, keys, store } = this.#parts
    const owners = keys.owners(userId)
    if (typeof ref !== 'string' || !REF.test(ref)) return false
    const ended = await errors.ask('revoke', () =>
      Promise.all(owners.map((owner) => store.revoke(owner, [ref])))
    )
    await this.#announce(userId, ended.flat())
    return ended.flat().length > 0
  }

  async revokeAll(userId: string, except: string | undefined): Promise<number> {
    const { errors, keys, store } = this.#parts
    const ended = await errors.ask('revokeAll', () =>
      Promise.all(
        keys.owners(userId).map(async (owner) => {
          const refs = (await store.list(owner)).map(({ ref }) => ref)
          return await store.revoke(
            owner,
            refs.filter((ref) => ref !== except && REF.test(ref))
          )
        })
      )
    )
    await this.#announce(userId, ended.flat())
    return ended.flat().length
  }

  /** Those that are there: one deleted by hand or evicted is still listed until it would have expired. */
  async #living(userId: string): Promise<Owned[]> {
    const { keys, store } = this.#parts
    const lists = await Promise.all(
      keys
        .owners(userId)
        .map(async (owner) => (await store.list(owner)).map((entry): Owned => ({ owner, entry })))
    )
    const listed = lists.flat()
    const there = await store.exist(listed.map(({ owner, entry }) => ({ ...owner, ref: entry.ref })))
    return listed.filter((_one, index) => there[index])
  }

  #infoOf({ owner, entry }: Owned): SessionInfo {
    const { ref, seenAt, createdAt } = entry
    const seen = isTime(seenAt) ? seenAt : isTime(createdAt) ? createdAt : 0
    return {
      ref,
      createdAt: new Date(isTime(createdAt) ? createdAt : seen),
      lastSeenAt: new Date(seen),
      expiresAt: new Date(isTime(entry.expiresAt) ? entry.expiresAt : LATEST),
      ...this.#parts.devices.read(owner, ref, entry.device)
    }
  }

  async #announce(userId: string, ended: readonly string[]): Promise<void> {
    const { local, publisher, keys, lifecycle } = this.#parts
    for (const ref of ended) local?.drop(ref)
    await publisher.revoked(ended, userId)
    if (ended.length > 0) for (const owner of keys.owners(userId)) await lifecycle.waitForReplicas(owner)
  }
}
