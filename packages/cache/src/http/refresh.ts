import type { FastifyInstance, FastifyRequest, InjectOptions } from 'fastify'
import { AsyncScope } from '../async-scope.js'
import type { Context } from '../factory.js'
import type { Exchange } from './exchange.js'
import type { StoredResponse, VaryPointer } from './stored-response.js'

/** A refresh that nobody waits for. The request that carries it out finds it in its asynchronous context. */
export interface RefreshJob {
  readonly key: string
  readonly context: Context
  exchange: Exchange | undefined
}

const refreshing = new AsyncScope<RefreshJob>()

/** The refresh that this request was made for; only the first request for its key is. */
export function refreshOf(key: string): RefreshJob | undefined {
  const job = refreshing.current
  return job && job.exchange === undefined && job.key === key ? job : undefined
}

/** What of a request the response may depend on; its connection is gone when the refresh runs. */
export interface Snapshot {
  readonly url: string
  readonly headers: Record<string, string | string[] | undefined>
  readonly remoteAddress: string
}

const NOT_REPEATED = [
  'connection',
  'content-length',
  'keep-alive',
  'transfer-encoding',
  'upgrade',
  'te',
  'cache-control',
  'pragma',
  'if-none-match',
  'if-modified-since',
  'if-match',
  'if-unmodified-since',
  'range',
  'if-range'
]

export function snapshot({ raw, ip }: FastifyRequest): Snapshot {
  const headers: Snapshot['headers'] = { ...raw.headers }
  for (const name of NOT_REPEATED) delete headers[name]
  return { url: raw.url ?? '/', headers, remoteAddress: raw.socket.remoteAddress ?? ip }
}

/** Sends the request through the app once more, with all its hooks, and takes what it would have answered. */
export async function refresh(
  fastify: FastifyInstance,
  key: string,
  { url, headers, remoteAddress }: Snapshot,
  context: Context
): Promise<StoredResponse | VaryPointer | undefined> {
  const job: RefreshJob = { key, context, exchange: undefined }
  const again = { method: 'GET', url, headers, remoteAddress } as InjectOptions
  // inject() begins when it is awaited: that must be in the context that tells the request what it is for.
  await refreshing.run(job, async () => await fastify.inject(again))
  // A hook answered before the handler could: nothing to store.
  if (!job.exchange) context.skip()
  return job.exchange?.outcome
}
