import { Deadline } from '@flotilla/core'
import type { Redis } from 'ioredis'
import { disableSocketTimeout, owesAnswers } from './internals.js'

/**
 * Ends a connection that owes answers and on which nothing arrives for its `socketTimeout`: it is dead, whatever TCP says.
 * In place of ioredis, which also ends one whose answers could not be read because the event loop was blocked. The client
 * then connects again. Does nothing for a connection without that option.
 */
export function endWhenSilent(connection: Redis): void {
  const { socketTimeout } = connection.options
  if (socketTimeout === undefined) return
  disableSocketTimeout(connection)
  // Answers must be owed at the end of one half, and nothing have arrived by the end of the next.
  const half = socketTimeout / 2
  connection.on('connect', () => {
    const { stream } = connection
    let deadline: Deadline | undefined
    let owedBefore = false
    const begin = (): void => {
      deadline = new Deadline(half, () => {
        const owes = owesAnswers(connection)
        if (owes && owedBefore) {
          const error = `Socket timeout. Answers are owed, and nothing arrived for ${socketTimeout} ms.`
          stream.destroy(new Error(error))
          return
        }
        owedBefore = owes
        begin()
      })
    }
    begin()
    stream.on('data', () => {
      owedBefore = false
      deadline?.touch()
    })
    stream.once('close', () => deadline?.cancel())
  })
}
