import { localNow } from './clock.js'
import type { CoreParts } from './core.js'
import { standing, type Entry, type Lifetime } from './entry.js'
import type { Space } from './reader.js'
import type { Address } from './remote.js'
import { decodeEntry } from './wire.js'

/** One copy of an entry, times in milliseconds from now (negative: past). */
export interface ExplainedCopy {
  /** Differs for each value that was ever stored under the key. */
  version: string
  /** Since it was computed. */
  age: number
  /** Served as it is. */
  freshFor: number
  /** Served while a new value is computed in the background. */
  staleFor: number
  /** Served where computing a new value fails. */
  graceFor: number
  /** How long computing it took. */
  computeMs: number
  /** Whoever invalidates one of these invalidates the entry. */
  tags: readonly string[]
  /** The tag or generation that was invalidated after this value was computed. */
  invalidatedBy: string | undefined
}

/** What the cache knows of one key, and what it would do with it now. */
export interface Explanation {
  /** As it was asked for. */
  key: string
  /** Empty for the root. */
  namespace: string
  /** The entry's key in Redis, without the client's own prefix. */
  redisKey: string
  /** What getOrSet would do now, and why, in words. */
  verdict: 'fresh' | 'stale' | 'miss'
  /** One sentence for a human. */
  reason: string
  /** The copy of this instance. `suspect`: an invalidation may have been missed, so Redis is asked first. */
  memory: (ExplainedCopy & { bytes: number; suspect: boolean }) | undefined
  /** `undefined` without Redis; `away` where it did not answer; otherwise its copy, if it has one. */
  redis:
    | undefined
    | { away: true }
    | {
        away: false
        entry: ExplainedCopy | undefined
        corrupt: string | undefined
        bytes: number
        lease: ExplainedLease
      }
}

/** Who may compute the value now. */
export interface ExplainedLease {
  /** `held` by a process that computes the value, `cooling` after a failure. */
  state: 'free' | 'held' | 'cooling'
  /** How long that lasts, in milliseconds. */
  ms: number
}

export async function explain(parts: CoreParts, space: Space, address: Address): Promise<Explanation> {
  const held = parts.memory?.peek(address)
  const memory = held && {
    ...copy(held, held.version, held.tags, deadMark(held)),
    bytes: held.size,
    suspect: standing(held, parts.marks) === 'suspect'
  }
  const redis = parts.remote && (await explainRedis(parts, space, address))
  return {
    key: address.key,
    namespace: space.name,
    redisKey: address.entryKey,
    ...judge(memory, redis),
    memory,
    redis
  }
}

async function explainRedis(
  { marks, names, remote, time }: CoreParts,
  space: Space,
  address: Address
): Promise<Explanation['redis']> {
  try {
    const [[bytes], state] = await Promise.all([
      remote!.read([address], space.generations),
      remote!.inspect(address)
    ])
    const lease: ExplainedLease = {
      state: state.lease === null ? 'free' : state.lease === '-' ? 'cooling' : 'held',
      ms: Math.max(0, state.leaseMs)
    }
    if (!bytes) return { away: false, entry: undefined, corrupt: undefined, bytes: 0, lease }
    let wire
    try {
      wire = decodeEntry(bytes)
    } catch (error) {
      const corrupt = error instanceof Error ? error.message : String(error)
      return { away: false, entry: undefined, corrupt, bytes: bytes.length, lease }
    }
    const { header, version } = wire
    const own = header.tags.map((tag) => marks.hold(names.tag(tag)))
    await remote!.learn(own)
    const all = [...space.generations, ...own]
    const dead = all.find((mark, i) => mark.value > (header.stamps[i] ?? 0))
    for (const mark of own) marks.release(mark)
    const life: Lifetime = {
      createdAt: time.toLocal(header.created),
      freshUntil: time.toLocal(header.freshUntil),
      staleUntil: time.toLocal(header.staleUntil),
      graceUntil: time.toLocal(header.graceUntil),
      computeMs: header.computeMs
    }
    return {
      away: false,
      entry: copy(life, version, header.tags, dead?.name),
      corrupt: undefined,
      bytes: bytes.length,
      lease
    }
  } catch {
    return { away: true }
  }
}

function copy(
  life: Lifetime,
  version: string,
  tags: readonly string[],
  invalidatedBy: string | undefined
): ExplainedCopy {
  const now = localNow()
  return {
    version,
    age: now - life.createdAt,
    freshFor: life.freshUntil - now,
    staleFor: life.staleUntil - now,
    graceFor: life.graceUntil - now,
    computeMs: life.computeMs,
    tags,
    invalidatedBy
  }
}

function deadMark(entry: Entry): string | undefined {
  return entry.marks.find((mark, i) => mark.value > entry.stamps[i]!)?.name
}

function judge(
  memory: Explanation['memory'],
  redis: Explanation['redis']
): Pick<Explanation, 'verdict' | 'reason'> {
  const reasons: string[] = []
  const stored = redis && !redis.away ? redis.entry : undefined
  for (const [where, one] of [
    ['memory', memory],
    ['Redis', stored]
  ] as const) {
    if (!one) reasons.push(`${where} holds nothing`)
    else if (one.invalidatedBy !== undefined) reasons.push(`${where}: invalidated by ${one.invalidatedBy}`)
    else if (one.freshFor > 0)
      return { verdict: 'fresh', reason: `fresh in ${where} for ${Math.ceil(one.freshFor)} ms` }
    else if (Math.max(one.staleFor, one.graceFor) > 0) {
      return {
        verdict: 'stale',
        reason: `${where}: expired ${Math.ceil(-one.freshFor)} ms ago, within swr or grace`
      }
    } else reasons.push(`${where}: expired`)
  }
  if (redis?.away) reasons[1] = 'Redis is away'
  if (redis && !redis.away && redis.corrupt !== undefined) reasons[1] = redis.corrupt
  if (!redis) reasons.length = 1
  return { verdict: 'miss', reason: reasons.join('; ') }
}
