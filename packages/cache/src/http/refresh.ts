import type { IncomingMessage, ServerResponse } from 'node:http'
import type { TLSSocket } from 'node:tls'
import type { FastifyInstance, FastifyRequest, InjectOptions } from 'fastify'
import { AsyncScope } from '../async-scope.js'
import type { Context } from '../factory.js'
import type { Exchange } from './exchange.js'
import type { StoredResponse, VaryPointer } from './stored-response.js'

/** A refresh that no request waits for. The request that carries it out finds it in its asynchronous context. */
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
  /** It came over TLS: the scheme is `https` unless a proxy says otherwise. */
  readonly encrypted: boolean
}

const NOT_REPEATED = [
  ':authority',
  ':method',
  ':path',
  ':protocol',
  ':scheme',
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
  // HTTP/2 names the host in a pseudo-header.
  const host = raw.headers.host ?? raw.headers[':authority']
  if (host !== undefined) headers['host'] = host
  for (const name of NOT_REPEATED) delete headers[name]
  return {
    url: raw.url ?? '/',
    headers,
    remoteAddress: raw.socket.remoteAddress ?? ip,
    encrypted: (raw.socket as Partial<TLSSocket>).encrypted === true
  }
}

/** Sends the request through the app once more, with all its hooks, and takes what it would have answered. */
export async function refresh(
  fastify: FastifyInstance,
  key: string,
  { url, headers, remoteAddress, encrypted }: Snapshot,
  context: Context
): Promise<StoredResponse | VaryPointer | undefined> {
  const job: RefreshJob = { key, context, exchange: undefined }
  // As app.inject(), which cannot say that a request came over TLS and adds headers that the client did not send.
  const { inject } = await import('light-my-request')
  const dispatch = (request: IncomingMessage, response: ServerResponse): void => {
    for (const name of Object.keys(request.headers)) if (!(name in headers)) delete request.headers[name]
    Object.assign(request.socket, { encrypted })
    fastify.routing(request, response)
  }
  const again = { method: 'GET', url, headers, remoteAddress } as InjectOptions
  // inject() begins when it is awaited: that must be in the context by which the request knows its purpose.
  await refreshing.run(job, async () => await inject(dispatch, again))
  if (!job.exchange) throw new Error('a hook answered the refresh before the handler could')
  return job.exchange.outcome
}
