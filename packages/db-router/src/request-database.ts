import type { ConsistencyToken } from '@flotilla/core'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { CausalSession, type Origin } from './causal-session.js'
import type { Carrier } from './carriers/carrier.js'
import { createDatabase, type Database, type DatabaseParts } from './database.js'
import { laterOf, type Position } from './token.js'

const kReply = Symbol('flotilla.db.reply')
const kAuthor = Symbol('flotilla.db.author')

/** How long a response waits for the position of a write whose outcome is unknown, in milliseconds. */
const POSITION_TIMEOUT = 1_000

type OurRequest = FastifyRequest & { [kReply]?: FastifyReply; [kAuthor]?: Author }

/** Gives each request a database of its own: bound to its author's writes, and cancelled with it. */
export function bindToRequests(
  fastify: FastifyInstance,
  parts: DatabaseParts,
  carrier: Carrier | undefined
): void {
  fastify.decorateRequest('db', {
    getter(this: FastifyRequest): Database {
      return ((this as OurRequest)[kAuthor] ??= new Author(this as OurRequest, parts, carrier)).database
    }
  })
  fastify.addHook('onRequest', (request, reply, done) => {
    ;(request as OurRequest)[kReply] = reply
    done()
  })
  if (!carrier) return
  fastify.addHook('onSend', (request, reply, payload, done) => {
    const session = (request as OurRequest)[kAuthor]?.session
    if (!session || !(session.advanced || session.settling || session.uncertain)) return done(null, payload)
    void keep(request, reply, session, parts, carrier, () => done(null, payload))
  })
}

async function keep(
  request: FastifyRequest,
  reply: FastifyReply,
  session: CausalSession,
  parts: DatabaseParts,
  carrier: Carrier,
  done: () => void
): Promise<void> {
  try {
    await store(request, reply, session, parts, carrier)
  } catch (error) {
    // The write stands; only its author's next request may miss it. Failing the response would hide the write.
    request.log.error(
      { err: error, plugin: '@flotilla/db-router' },
      'The position of a write could not be kept'
    )
  }
  done()
}

/** Who a request comes from. */
class Author implements Origin {
  readonly session: CausalSession
  readonly database: Database
  readonly #request: OurRequest
  readonly #parts: DatabaseParts
  readonly #carrier: Carrier | undefined

  constructor(request: OurRequest, parts: DatabaseParts, carrier: Carrier | undefined) {
    this.#request = request
    this.#parts = parts
    this.#carrier = carrier
    this.session = new CausalSession(parts.settings.tokenTtl, {
      origin: carrier && this,
      abortable: true
    })
    this.database = createDatabase(parts, this.session)
    const response = request[kReply]?.raw
    const closed = (): void => {
      if (!response!.writableFinished) this.session.abort()
    }
    // The client may have gone before the handler first asked.
    if (response?.destroyed) closed()
    else response?.once('close', closed)
  }

  isEmpty(): boolean {
    try {
      return this.#carrier?.isEmpty?.(this.#request) === true
    } catch {
      // Such as of a session that is read on demand, and was not yet: then `load` fails too, and nothing is known.
      return false
    }
  }

  async load(): Promise<Position | undefined> {
    return this.#latestOf(await this.#carrier!.load(this.#request))
  }

  get atHand(): boolean {
    return this.#carrier?.peek !== undefined
  }

  peek(): Position | undefined {
    return this.#latestOf(this.#carrier!.peek!(this.#request))
  }

  #latestOf(tokens: readonly ConsistencyToken[]): Position | undefined {
    let latest: Position | undefined
    for (const token of tokens) {
      const position = this.#parts.codec.decode(token)
      if (position) latest = laterOf(latest, position)
    }
    return latest
  }
}

async function store(
  request: FastifyRequest,
  reply: FastifyReply,
  session: CausalSession,
  parts: DatabaseParts,
  carrier: Carrier
): Promise<void> {
  while (session.settling) await session.settling
  // The author's next request must see the write should it have happened: any later position covers it.
  if (session.uncertain && parts.router.topology.primary) {
    // The signal, for the wait for a primary has a bound of its own that may be far longer.
    const limits = { ...parts.limits, signal: AbortSignal.timeout(POSITION_TIMEOUT) }
    // Named so that it asks for a position that covers a commit which was not flushed, too.
    await parts.router.write(session, { text: 'select 1 /* synchronous_commit was not known */' }, limits)
  }
  if (!session.advanced || !session.position) return
  // Answers to one browser may overtake each other; the instance's newest position covers all it has answered.
  const { newest } = parts.router.topology
  const position = newest ? laterOf(session.position, newest) : session.position
  const token: ConsistencyToken = parts.codec.encode(position)
  await carrier.store(request, reply, token)
}
