import { withRedis } from './redis-client.js'
import type { RedisServer } from './redis-server.js'
import { until } from './until.js'

export interface SlotMigration {
  readonly slot: number
  readonly from: RedisServer
  readonly to: RedisServer
  /** Moves this share (0 to 1) of the keys that are still there; returns how many moved. */
  moveKeys(share: number): Promise<number>
  /** Hands the slot over and waits until every master says so. Keys must have been moved before. */
  finish(): Promise<void>
  /** Gives up: the slot stays where it was; keys that have moved are missing until they are brought back. */
  cancel(): Promise<void>
}

interface Parts {
  slot: number
  from: RedisServer
  to: RedisServer
  fromId: string
  toId: string
  masters: RedisServer[]
  password: string | undefined
}

/** Opens a slot for migration, in the order that the Redis Cluster specification gives: importing first. */
export async function startSlotMigration(parts: Parts): Promise<SlotMigration> {
  const { slot, from, to, fromId, toId, masters } = parts
  await to.command('CLUSTER', 'SETSLOT', slot, 'IMPORTING', fromId)
  await from.command('CLUSTER', 'SETSLOT', slot, 'MIGRATING', toId)
  return {
    slot,
    from,
    to,
    moveKeys: (share) => move(from, to, parts, share),
    async finish() {
      await to.command('CLUSTER', 'SETSLOT', slot, 'NODE', toId)
      await from.command('CLUSTER', 'SETSLOT', slot, 'NODE', toId)
      for (const node of masters) {
        if (node !== to && node !== from && node.running)
          await node.command('CLUSTER', 'SETSLOT', slot, 'NODE', toId)
      }
      await until(
        async () => {
          const views = await Promise.all(
            masters.filter(({ running }) => running).map((node) => node.command('CLUSTER', 'SLOTS'))
          )
          return views.every((view) => ownerPort(view, slot) === to.port)
        },
        { message: `every master knows that slot ${slot} moved to port ${to.port}` }
      )
    },
    async cancel() {
      // First the owner, which takes no keys back while it gives them away.
      await from.command('CLUSTER', 'SETSLOT', slot, 'STABLE')
      await move(to, from, parts, 1)
      await to.command('CLUSTER', 'SETSLOT', slot, 'STABLE')
    }
  }
}

function move(source: RedisServer, target: RedisServer, parts: Parts, share: number): Promise<number> {
  return withRedis(source.address, async (client) => {
    const total = Number(await client.call('CLUSTER', 'COUNTKEYSINSLOT', parts.slot))
    const keys = (await client.call(
      'CLUSTER',
      'GETKEYSINSLOT',
      parts.slot,
      Math.ceil(total * share)
    )) as string[]
    const auth = parts.password === undefined ? [] : ['AUTH', parts.password]
    for (const key of keys) {
      await client.call('MIGRATE', target.host, target.port, '', 0, 5_000, 'REPLACE', ...auth, 'KEYS', key)
    }
    return keys.length
  })
}

function ownerPort(view: unknown, slot: number): number | undefined {
  for (const [low, high, master] of view as [number, number, [string, number]][]) {
    if (slot >= low && slot <= high) return master[1]
  }
  return undefined
}
