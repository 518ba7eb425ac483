import { CallRefusedError, PublishRefusedError } from './errors.js'
import type { ErrorCode } from './protocol.js'

/** The longest code of an app's own, in characters. */
const MAX_CODE = 64

/** Why a command was refused; becomes an `error` frame. */
export class Refusal extends Error {
  constructor(
    readonly code: ErrorCode | (string & {}),
    message: string
  ) {
    super(message)
  }
}

/** What the client learns about an error. */
export function toRefusal(error: unknown): Refusal {
  if (error instanceof Refusal) return error
  if (error instanceof PublishRefusedError || error instanceof CallRefusedError) {
    return new Refusal(error.code.slice(0, MAX_CODE), error.message)
  }
  // An app may throw anything, undefined too.
  const code = (error as { code?: unknown } | null | undefined)?.code
  if (code === 'FLOTILLA_WS_ERR_TOO_LARGE') return new Refusal('too_large', (error as Error).message)
  return new Refusal('unavailable', 'This did not work just now; try again')
}
