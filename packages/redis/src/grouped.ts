import type { ChainableCommander } from 'ioredis'
import { isCluster, keyPrefixOf, type RedisClient } from './redis-client.js'
import { slotOf } from './slots.js'

/**
 * Runs a command for each of many keys as one pipeline a node, never as a command across slots.
 *
 * @param queue adds the commands of one key to the pipeline: usually one
 * @returns the replies in the order of the keys; where a key has several commands, the list of their replies
 * @throws the first error, once all pipelines have ended; keys whose slot is just moving are tried again by themselves.
 */
export async function runGrouped<Reply = unknown>(
  client: RedisClient,
  keys: readonly string[],
  queue: (pipeline: ChainableCommander, key: string) => void
): Promise<Reply[]> {
  const replies: Reply[] = Array.from({ length: keys.length })
  let open = keys.map((key, index) => ({ key, index }))
  for (let attempt = 0; open.length > 0; attempt++) {
    // From the second time on by slot: redirections concern slots, and ioredis follows them if all of a pipeline agree.
    const batches = group(client, open, attempt > 0)
    const outcomes = await Promise.all(batches.map((batch) => runBatch(client, batch, queue)))
    let failure: Error | undefined
    const again: typeof open = []
    for (const { item, error, reply } of outcomes.flat()) {
      if (!error) replies[item.index] = reply as Reply
      else if (attempt < MAX_ATTEMPTS && isMoving(error)) again.push(item)
      else failure ??= error
    }
    if (failure) throw failure
    open = again
  }
  return replies
}

interface Item {
  readonly key: string
  readonly index: number
}

const MAX_ATTEMPTS = 3

function group(client: RedisClient, items: readonly Item[], bySlot: boolean): Item[][] {
  if (!isCluster(client)) return [[...items]]
  const prefix = keyPrefixOf(client)
  const batches = new Map<string, Item[]>()
  for (const item of items) {
    const slot = slotOf(prefix + item.key)
    const node = bySlot ? String(slot) : (client.slots[slot]?.join(';') ?? String(slot))
    const batch = batches.get(node)
    if (batch) batch.push(item)
    else batches.set(node, [item])
  }
  return [...batches.values()]
}

interface Outcome {
  readonly item: Item
  readonly error?: Error
  readonly reply?: unknown
}

async function runBatch(
  client: RedisClient,
  batch: readonly Item[],
  queue: (pipeline: ChainableCommander, key: string) => void
): Promise<Outcome[]> {
  const pipeline = client.pipeline()
  const ends = batch.map(({ key }) => {
    queue(pipeline, key)
    return pipeline.length
  })
  let results: [Error | null, unknown][]
  try {
    results = (await pipeline.exec()) ?? []
  } catch (cause) {
    const error = cause instanceof Error ? cause : new Error(String(cause))
    return batch.map((item) => ({ item, error }))
  }
  return batch.map((item, at) => {
    const own = results.slice(at === 0 ? 0 : ends[at - 1], ends[at])
    const error = own.find(([one]) => one)?.[0]
    if (error) return { item, error }
    return { item, reply: own.length === 1 ? own[0]?.[1] : own.map(([, reply]) => reply) }
  })
}

function isMoving(error: Error): boolean {
  return /^(MOVED|ASK|TRYAGAIN)\b|same slots allocation group/.test(error.message)
}
