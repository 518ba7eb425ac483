import { request, type ClientRequest } from 'node:http'
import { until } from './until.js'

export interface SteadyRequestOptions {
  url: string
  perSecond: number
  headers?: Record<string, string>
}

export interface SteadyRequests {
  /** Requests sent so far. */
  readonly sent: number
  /** How often each status came, and each error by its code. */
  readonly outcomes: Readonly<Record<string, number>>
  /** Requests that wait for their answer. */
  readonly pending: number
  /** Sends no more and waits for the answers that are due. */
  finish(timeout?: number): Promise<void>
  /** Sends no more and ends what waits for its answer. */
  stop(): void
}

/**
 * Sends GET requests at a fixed rate, each on a connection of its own, and does not wait for an answer before it
 * sends the next one: the client of a route that fails, hangs or resets.
 */
export function sendSteadily({ url, perSecond, headers = {} }: SteadyRequestOptions): SteadyRequests {
  const open = new Set<ClientRequest>()
  const outcomes: Record<string, number> = {}
  let sent = 0
  let stopped = false

  const send = (): void => {
    const outgoing = request(url, { agent: false, headers })
    const settle = (outcome: string): void => {
      if (open.delete(outgoing) && !stopped) outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
    }
    open.add(outgoing)
    sent++
    outgoing.on('response', (response) => {
      response.resume()
      settle(String(response.statusCode))
    })
    outgoing.on('error', ({ code }: NodeJS.ErrnoException) => settle(code ?? 'error'))
    outgoing.end()
  }
  send()
  const timer = setInterval(send, 1000 / perSecond)
  return {
    get sent() {
      return sent
    },
    get pending() {
      return open.size
    },
    outcomes,
    async finish(timeout = 60_000) {
      clearInterval(timer)
      await until(() => open.size === 0, { timeout, message: `each request to ${url} has its answer` })
    },
    stop() {
      stopped = true
      clearInterval(timer)
      for (const one of open) one.destroy()
    }
  }
}
