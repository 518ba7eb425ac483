import { type RedisClient, runGrouped } from '@flotilla/redis'
import type { Announcer } from '../lifecycle/revocation-publisher.js'
import type { Devices } from './devices.js'
import type { SessionIdentity } from '../lifecycle/session-lifecycle.js'
import type { Keys, Owner } from '../store/keys.js'
import type { LocalSessions } from '../store/local-sessions.js'
import { listSessions } from './lua/list.js'
import { revokeScript } from './lua/revoke.js'
import { isTime, LATEST } from '../store/meta.js'
import type { Outage } from '../lifecycle/store-errors.js'

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

/** A user's sessions across all instances. */
export interface UserSessions {
  list(userId: string): Promise<SessionInfo[]>
  count(userId: string): Promise<number>
  revoke(userId: string, ref: string): Promise<boolean>
  revokeAll(userId: string, except: string | undefined): Promise<number>
}

export interface UserSessionsParts {
  readonly client: RedisClient
  readonly keys: Keys
  readonly devices: Devices
  readonly local: LocalSessions | undefined
  readonly outage: Outage
  readonly announcer: Announcer
  readonly settle: SessionIdentity['settle']
}

interface Entry {
  readonly owner: Owner
  readonly ref: string
  /** In the session's key: differs from the reference once the id has been renewed. */
  readonly hash: string
  readonly info: SessionInfo
}

/** Sessions ended by one script; a user with more has several run. */
const BATCH = 200

export function createUserSessions(parts: UserSessionsParts): UserSessions {
  const { client, keys, devices, local, outage, announcer, settle } = parts

  const entriesOf = async (owner: Owner): Promise<Entry[]> => {
    const [, scores, texts] = await listSessions.run(client, [keys.index(owner), keys.devices(owner)])
    const details = new Map<string, string>()
    for (let i = 0; i < texts.length; i += 2) details.set(texts[i]!, texts[i + 1]!)
    const entries: Entry[] = []
    for (let i = 0; i < scores.length; i += 2) {
      const ref = scores[i]!
      const { hash, device } = devices.read(owner, ref, details.get(ref) ?? ref)
      const expiry = Number(scores[i + 1])
      const expiresAt = new Date(isTime(expiry) ? expiry : LATEST)
      const seen = Number(details.get(`${ref}:t`) ?? Number.NaN)
      const lastSeenAt = new Date(isTime(seen) ? seen : (device.createdAt ?? 0))
      const createdAt = new Date(device.createdAt ?? lastSeenAt)
      const { ip, userAgent, label } = device
      entries.push({
        owner,
        ref,
        hash,
        info: { ref, createdAt, lastSeenAt, expiresAt, ip, userAgent, label }
      })
    }
    return entries
  }

  /** Those that are there: one deleted by hand or evicted is still listed until it would have expired. */
  const alive = async (userId: string): Promise<Entry[]> => {
    const found = await Promise.all(keys.owners(userId).map(entriesOf))
    const entries = found.flat()
    const there = await runGrouped(
      client,
      entries.map(({ owner, hash }) => keys.session(owner.tag, hash)),
      (pipeline, key) => void pipeline.exists(key)
    )
    return entries.filter((_entry, index) => there[index] === 1)
  }

  /** Ends these sessions of one owner, following ids that are renewed meanwhile. */
  const end = async (owner: Owner, targets: readonly { ref: string; hash: string }[]): Promise<string[]> => {
    const ended: string[] = []
    const left = [...targets]
    while (left.length > 0) {
      const batch = left.splice(0, BATCH)
      const [gone, moved] = await revokeScript(batch.length).run(
        client,
        [keys.index(owner), keys.devices(owner), ...batch.map(({ hash }) => keys.session(owner.tag, hash))],
        [owner.userHash, ...batch.flatMap(({ ref, hash }) => [ref, hash])]
      )
      ended.push(...gone)
      for (let i = 0; i < moved.length; i += 2) left.push({ ref: moved[i]!, hash: moved[i + 1]! })
    }
    return ended
  }

  const announce = async (userId: string, ended: readonly string[]): Promise<void> => {
    for (const ref of ended) local?.drop(ref)
    await announcer.revoked(ended, userId)
    if (ended.length > 0) for (const owner of keys.owners(userId)) await settle(keys.index(owner))
  }

  return {
    async list(userId) {
      const entries = await outage.ask('list', () => alive(userId))
      return entries.map(({ info }) => info).sort((a, b) => b.lastSeenAt.getTime() - a.lastSeenAt.getTime())
    },

    async count(userId) {
      return (await outage.ask('count', () => alive(userId))).length
    },

    async revoke(userId, ref) {
      const ended = await outage.ask('revoke', async () => {
        const perOwner = keys.owners(userId).map((owner) => end(owner, [{ ref, hash: ref }]))
        return (await Promise.all(perOwner)).flat()
      })
      await announce(userId, ended)
      return ended.length > 0
    },

    async revokeAll(userId, except) {
      const ended = await outage.ask('revokeAll', async () => {
        const perOwner = keys.owners(userId).map(async (owner) => {
          const targets = (await entriesOf(owner)).filter(({ ref }) => ref !== except)
          return await end(owner, targets)
        })
        return (await Promise.all(perOwner)).flat()
      })
      await announce(userId, ended)
      return ended.length
    }
  }
}
