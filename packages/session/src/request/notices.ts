import type { FastifyBaseLogger } from 'fastify'
import type { Forgotten } from './operations.js'

const FOREIGN_SECRET_EVERY_MS = 60_000

/** Log lines about mistakes of the application or its operator, each once or once a minute. */
export class Notices {
  readonly #log: FastifyBaseLogger
  readonly #warned = new Set<string>()
  #foreignAt = -Infinity
  #foreign = 0

  constructor(log: FastifyBaseLogger) {
    this.#log = log
  }

  readonly callbacks: {
    readonly late: () => void
    readonly forgotten: Forgotten
    readonly foreignSecret: (keyId: string) => void
  } = {
    late: () =>
      this.#warnOnce(
        'a session was changed after its response had been sent; only `await session.save()` keeps what was set, and a new cookie, as of a login, does not reach the browser'
      ),
    forgotten: (name, failure) => {
      if (failure) this.#log.error({ err: failure.error }, `\`session.${name}()\` failed and was not awaited`)
      else
        this.#warnOnce(
          `\`session.${name}()\` was not awaited: the response waited for it, but what else the handler did to the session may have come before it; write \`await session.${name}()\``
        )
    },
    foreignSecret: (keyId) => this.#foreignSecret(keyId)
  }

  /** Anyone can send a cookie that names any secret: hence once a minute. */
  #foreignSecret(keyId: string): void {
    this.#foreign++
    const now = performance.now()
    if (now - this.#foreignAt < FOREIGN_SECRET_EVERY_MS) return
    this.#foreignAt = now
    this.#log.error(
      { keyId, cookies: this.#foreign },
      'a session cookie names a secret that is not in `secret` here: another instance signs with one that this one does not know, or the cookie is forged. Every instance must list a new secret before any instance puts it first'
    )
    this.#foreign = 0
  }

  #warnOnce(message: string): void {
    if (!this.#warned.has(message)) this.#log.warn(message)
    this.#warned.add(message)
  }
}
