import type { ConsistencyToken } from '@flotilla/core'
import type { FastifyReply, FastifyRequest } from 'fastify'

/** Keeps an author's token from one request to the author's next, which another instance may get. */
export interface Carrier {
  /** The tokens the request came with; those that are not ours are ignored. Rejecting means "unknown": reads go to the primary. */
  load(request: FastifyRequest): ConsistencyToken[] | Promise<ConsistencyToken[]>
  /**
   * The same for a carrier that has the tokens at hand: it is asked before writes too, which wait for no carrier, so that
   * none goes to a primary that another instance knows to be replaced. Throwing means "unknown".
   */
  peek?(request: FastifyRequest): ConsistencyToken[]
  /** Called before the response is sent, where the request has written. */
  store(request: FastifyRequest, reply: FastifyReply, token: ConsistencyToken): void | Promise<void>
  /**
   * Whether `request` carries nothing as yet, known without waiting: then its reads start at once. Asked before each read
   * until it is false, when `load` is called, once: whose request it is may come out only in the course of it.
   */
  isEmpty?(request: FastifyRequest): boolean
}
