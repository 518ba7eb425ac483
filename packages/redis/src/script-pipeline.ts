import type { ChainableCommander } from 'ioredis'
import { isCluster, keyPrefixOf, type RedisClient } from './redis-client.js'
import { slotOf } from './slots.js'

export interface QueuedScript {
  readonly sha: string
  readonly lua: string
  /** Number of keys, which stand at the front of `rest`. */
  readonly count: number
  readonly rest: readonly (string | number | Buffer)[]
}

interface Queued {
  readonly index: number
  readonly script: QueuedScript
  /** Node and script, for what is known to be loaded. */
  readonly place: string
}

/** The parts of a pipeline of ioredis 5 and 6 that its type does not show. */
interface PipelineInternals {
  readonly redis: RedisClient
  readonly _transactions?: number
}

const queues = new WeakMap<ChainableCommander, Queued[]>()
const loaded = new WeakMap<RedisClient, Set<string>>()

/**
 * Adds a script to a pipeline by its hash where the node is known to have it, else by its text, which loads
 * it: commands of a pipeline then run in the order in which they were added. A node that lost its scripts in
 * between (SCRIPT FLUSH) answers NOSCRIPT, and those calls are repeated after the pipeline.
 */
export function queueScript(pipeline: ChainableCommander, script: QueuedScript): ChainableCommander {
  const { redis, _transactions = 0 } = pipeline as unknown as PipelineInternals
  const { sha, lua, count, rest } = script
  if (_transactions > 0) return pipeline.eval(lua, count, ...rest)
  const place = `${nodeOf(redis, script)} ${sha}`
  const queued = queues.get(pipeline) ?? repairOnExec(pipeline, redis)
  const known = loadedOn(redis).has(place) || queued.some((one) => one.place === place)
  queued.push({ index: pipeline.length, script, place })
  return known ? pipeline.evalsha(sha, count, ...rest) : pipeline.eval(lua, count, ...rest)
}

export function isNoScript(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('NOSCRIPT')
}

function repairOnExec(pipeline: ChainableCommander, redis: RedisClient): Queued[] {
  const queued: Queued[] = []
  queues.set(pipeline, queued)
  const exec = pipeline.exec.bind(pipeline)
  pipeline.exec = async (callback) => {
    // ioredis itself executes a pipeline again after a redirection: that must not come here a second time.
    pipeline.exec = exec
    const results = await exec()
    if (results) await repair(redis, queued, results)
    callback?.(null, results)
    return results
  }
  return queued
}

async function repair(
  redis: RedisClient,
  queued: Queued[],
  results: [Error | null, unknown][]
): Promise<void> {
  const known = loadedOn(redis)
  const missing: Queued[] = []
  for (const one of queued) {
    const error = results[one.index]?.[0]
    if (!error) known.add(one.place)
    else if (isNoScript(error)) missing.push(one)
  }
  if (missing.length === 0) return
  known.clear()
  const again = redis.pipeline()
  for (const { script } of missing) again.eval(script.lua, script.count, ...script.rest)
  const repaired = (await again.exec()) ?? []
  for (const [at, { index }] of missing.entries()) {
    const result = repaired[at]
    if (result) results[index] = result
  }
}

/** Scripts that nodes are known to have; forgotten with each new connection, which may be to another server. */
function loadedOn(redis: RedisClient): Set<string> {
  const existing = loaded.get(redis)
  if (existing) return existing
  const known = new Set<string>()
  loaded.set(redis, known)
  for (const event of ['close', 'ready', '+node', '-node']) redis.on(event, () => known.clear())
  return known
}

function nodeOf(redis: RedisClient, { count, rest }: QueuedScript): string {
  if (!isCluster(redis)) return ''
  const [key] = rest
  if (count === 0 || key === undefined) return ''
  return redis.slots[slotOf(keyPrefixOf(redis) + String(key))]?.[0] ?? ''
}
