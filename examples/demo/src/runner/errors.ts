/** What the runner refuses with: `DEMO_ERR_USAGE`, `DEMO_ERR_PORT_BUSY`, `DEMO_ERR_REDIS_URL`, `DEMO_ERR_CONTROL`. */
export class DemoError extends Error {
  override name = 'DemoError'

  constructor(
    readonly code: string,
    message: string,
    cause?: unknown
  ) {
    super(message, cause === undefined ? undefined : { cause })
  }
}

/** One line for the terminal, with the code where there is one. */
export function describe(error: unknown): string {
  const { code, message } = error as Error & { code?: string }
  return code === undefined ? message : `${code}: ${message}`
}
