import { defineScript, isCluster, type RedisClient } from '@flotilla/redis'
import type { FastifyBaseLogger } from 'fastify'
import type { ChannelKeys } from './channel-keys.js'
import { plainEnvelope } from './envelope.js'
import { heartbeatLua, liveInstancesLua, presenceJoinLua, presenceLeaveLua } from './lua/presence.js'
import type { Member } from './protocol.js'

const joinScript = defineScript<number>({ name: 'ws-presence-join', keys: 2, lua: presenceJoinLua })
const leaveScript = defineScript<number>({ name: 'ws-presence-leave', keys: 2, lua: presenceLeaveLua })
const heartbeatScript = defineScript<[held: number, lapsed: string[]]>({
  name: 'ws-heartbeat',
  keys: 1,
  lua: heartbeatLua
})

const liveScript = defineScript<string[]>({ name: 'ws-live-instances', keys: 1, lua: liveInstancesLua })

/** Members written by one call of the join script. */
const CHUNK = 500
/** Channels written at the same time. */
const LANES = 64

/**
 * Who is in a channel, fleet-wide. Members belong to their instance, and only the instance has a lease: one
 * heartbeat keeps all its members, and when it lapses whoever notices first removes them and tells the rest.
 */
export class Presence {
  readonly #members = new Map<string, Map<string, Member>>()
  readonly #publish: string
  #started = false
  #timer: NodeJS.Timeout | undefined
  /** Write everything again: the lease had lapsed, or Redis may have lost or kept what it should not. */
  #reassert = 0
  /** The lease had lapsed: the others have been told that our members left. */
  #announce = false
  /** Channels this instance has no members in any more. */
  readonly #emptied = new Set<string>()
  /** Instances to clean up after. */
  readonly #gone = new Set<string>()
  #beating: Promise<void> | undefined
  #tidying: Promise<void> | undefined

  constructor(
    private readonly client: RedisClient,
    private readonly keys: ChannelKeys,
    private readonly instance: string,
    private readonly lease: number,
    private readonly log: FastifyBaseLogger
  ) {
    this.#publish = isCluster(client) ? 'SPUBLISH' : 'PUBLISH'
  }

  /** The first member starts the heartbeat; an instance without members costs nothing. */
  async join(channel: string, member: Member): Promise<void> {
    let members = this.#members.get(channel)
    if (!members) {
      members = new Map()
      this.#members.set(channel, members)
    }
    members.set(member.id, member)
    await this.#attempt(async () => {
      await this.#start()
      await Promise.all([
        this.client.sadd(this.keys.channelsOf(this.instance), channel),
        this.#write(channel, [member], false, true)
      ])
    })
  }

  async leave(channel: string, connection: string): Promise<void> {
    const members = this.#members.get(channel)
    if (!members?.delete(connection)) return
    if (members.size === 0) {
      this.#members.delete(channel)
      this.#emptied.add(channel)
    }
    await this.#attempt(() => this.#remove(channel, this.instance, [connection]))
  }

  /** Everyone in the channel, on all instances with a lease; this one's own are known here first. */
  async list(channel: string): Promise<Member[]> {
    const [instances, leased] = await Promise.all([
      this.client.smembers(this.keys.presence(channel)),
      liveScript.run(this.client, [this.keys.instances])
    ])
    const live = new Set(leased)
    const hashes = await Promise.all(
      instances
        .filter((instance) => live.has(instance) && instance !== this.instance)
        .map((instance) => this.client.hvals(this.keys.members(channel, instance)))
    )
    const own = [...(this.#members.get(channel)?.values() ?? [])]
    return own.concat(hashes.flat().map((json) => JSON.parse(json) as Member))
  }

  /** Redis may have forgotten members or kept ones that left: the next heartbeat, now, writes all again. */
  async refresh(): Promise<void> {
    if (this.#members.size === 0) return
    this.#reassert = 1
    await this.#beat()
    await this.#tidying
  }

  /** Takes this instance's members out. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    const channels = [...this.#members.keys()]
    this.#members.clear()
    if (!this.#timer) return
    this.#timer = undefined
    await this.#beating
    await this.#tidying
    try {
      await Promise.all(channels.map((channel) => this.#remove(channel, this.instance, [])))
      await this.client.del(this.keys.channelsOf(this.instance))
      await this.client.zrem(this.keys.instances, this.instance)
    } catch (err) {
      this.log.warn({ err }, 'presence could not be withdrawn; it ends with the lease')
    }
  }

  /** A failure is made good by the next heartbeat, which writes all members again. */
  async #attempt(write: () => Promise<void>): Promise<void> {
    try {
      await write()
    } catch (err) {
      this.#reassert = Math.max(1, this.#reassert)
      this.log.warn({ err }, 'presence could not be written; the next heartbeat repeats it')
    }
  }

  async #start(): Promise<void> {
    if (!this.#timer) {
      this.#timer = setInterval(() => void this.#beat(), this.lease / 3)
      this.#timer.unref()
      await this.#beat()
    }
    await this.#beating
  }

  #beat(): Promise<void> {
    this.#beating ??= this.#heartbeat()
      .catch((err: unknown) => {
        this.#reassert = 1
        this.log.warn({ err }, 'the presence heartbeat failed; trying again')
      })
      .finally(() => {
        this.#beating = undefined
      })
    return this.#beating
  }

  async #heartbeat(): Promise<void> {
    const [held, lapsed] = await heartbeatScript.run(
      this.client,
      [this.keys.instances],
      [this.instance, this.lease]
    )
    const first = !this.#started
    this.#started = true
    // Twice, since whoever cleans up after a lapsed lease may be at it while we write.
    if (!held && !first) this.#reassert = 2
    if (!held && this.#reassert > 0) this.#announce = true
    for (const name of lapsed) this.#gone.add(name)
    // Not part of the beat: with many channels it takes longer than the lease.
    this.#tidying ??= this.#tidy()
      .catch((err: unknown) => {
        this.#reassert = Math.max(1, this.#reassert)
        this.log.warn({ err }, 'presence could not be brought up to date; the next heartbeat repeats it')
      })
      .finally(() => {
        this.#tidying = undefined
      })
  }

  async #tidy(): Promise<void> {
    for (const instance of this.#gone) {
      this.#gone.delete(instance)
      await this.#clean(instance)
    }
    await inLanes(this.#emptied, async (channel) => {
      this.#emptied.delete(channel)
      try {
        if (!this.#members.has(channel)) await this.#write(channel, [], true, false)
        if (!this.#members.has(channel)) await this.client.srem(this.keys.channelsOf(this.instance), channel)
      } catch (error) {
        this.#emptied.add(channel)
        throw error
      }
    })
    if (this.#reassert === 0) return
    this.#reassert -= 1
    const announce = this.#announce
    this.#announce = false
    await inLanes(this.#members, async ([channel]) => {
      await this.client.sadd(this.keys.channelsOf(this.instance), channel)
      const members = this.#members.get(channel)
      if (members) await this.#write(channel, [...members.values()], true, announce)
    })
  }

  /** Removes the members of an instance whose lease has lapsed. */
  async #clean(instance: string): Promise<void> {
    if (instance !== this.instance) {
      const channels = await this.client.smembers(this.keys.channelsOf(instance))
      await Promise.all(channels.map((channel) => this.#remove(channel, instance, [])))
      await this.client.del(this.keys.channelsOf(instance))
      this.log.info(
        { instance, channels: channels.length },
        'removed the presence of an instance that is gone'
      )
    }
    await this.client.zrem(this.keys.instances, `gone ${instance}`)
  }

  async #write(channel: string, members: Member[], replace: boolean, announce: boolean): Promise<void> {
    for (let index = 0; index < Math.max(1, members.length); index += CHUNK) {
      // Whoever left while this was waiting has been removed already.
      const present = members
        .slice(index, index + CHUNK)
        .filter((member) => this.#members.get(channel)?.get(member.id) === member)
      const first = replace && index === 0
      if (present.length === 0 && !first) continue
      await joinScript.run(
        this.client,
        [this.keys.presence(channel), this.keys.members(channel, this.instance)],
        [
          this.instance,
          this.keys.wire(channel),
          this.#publish,
          first ? 1 : 0,
          ...present.flatMap((member) => {
            const event = JSON.stringify({ type: 'join', channel, member })
            return [member.id, JSON.stringify(member), announce ? plainEnvelope('p', '', event) : '']
          })
        ]
      )
    }
  }

  async #remove(channel: string, instance: string, connections: string[]): Promise<void> {
    const event = plainEnvelope('p', '', `{"type":"leave","channel":${JSON.stringify(channel)},"member":`)
    await leaveScript.run(
      this.client,
      [this.keys.presence(channel), this.keys.members(channel, instance)],
      [instance, this.keys.wire(channel), this.#publish, event, '}', ...connections]
    )
  }
}

/** Some at a time, one after another, in the order of what may still grow or shrink meanwhile. */
async function inLanes<Item>(items: Iterable<Item>, work: (item: Item) => Promise<void>): Promise<void> {
  const iterator = items[Symbol.iterator]()
  const lane = async (): Promise<void> => {
    for (let next = iterator.next(); !next.done; next = iterator.next()) await work(next.value)
  }
  await Promise.all(Array.from({ length: LANES }, lane))
}
