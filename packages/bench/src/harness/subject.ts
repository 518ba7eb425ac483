/* What runs inside a subject's process; see processes.ts for the other end. */

/** What a measured piece of work is told. */
export interface WorkRequest {
  /** How long to measure, in milliseconds. */
  readonly ms: number
  readonly quick: boolean
  readonly warmup: boolean
  /** What the case passed along; of JSON types. */
  readonly args: Readonly<Record<string, unknown>>
}

/** Does the work for about `ms` and returns the figure. Throws for a wrong answer. */
export type Work = (request: WorkRequest) => Promise<number>

/** A running subject: an app to load from outside, work to run inside, or both. */
export interface ServedSubject {
  /** A Fastify app, which the harness lets listen on a free loopback port. */
  readonly app?: {
    listen(options: { host: string; port: number }): Promise<string>
    close(): PromiseLike<unknown>
  }
  /** The address of anything else that listens already. */
  readonly url?: string
  readonly work?: Readonly<Record<string, Work>>
  close?(): Promise<void>
}

export type ServeSubject = (context: {
  /** Addresses of the servers and `SUBJECT_INDEX`, 0 for the first instance. */
  readonly env: Readonly<Record<string, string | undefined>>
}) => ServedSubject | Promise<ServedSubject>

interface Call {
  readonly id: number
  readonly work: string
  readonly request: WorkRequest
}

/** Starts the subject named on the command line and answers the harness over IPC until it goes away. */
export function serveSubjects(subjects: Readonly<Record<string, ServeSubject>>): void {
  const name = process.argv[2] ?? ''
  const start = subjects[name]
  // The parent is the only reason to live: without it (crash, SIGKILL) nothing may be left running.
  process.on('disconnect', () => process.exit(0))
  // Ctrl-C reaches the whole process group; the parent stops us in order.
  process.on('SIGINT', () => {})
  const fail = (error: unknown): never => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
    process.send?.({ failed: text }, undefined, undefined, () => process.exit(1))
    throw error
  }
  if (!start) {
    fail(new Error(`no subject "${name}" in ${process.argv[1]}; it has ${Object.keys(subjects).join(', ')}`))
    return
  }
  run(start).catch(fail)
}

async function run(start: ServeSubject): Promise<void> {
  const served = await start({ env: process.env })
  const url = served.app ? await served.app.listen({ host: '127.0.0.1', port: 0 }) : served.url
  process.on('message', (message: Call) => {
    void answer(served, message).then((reply) => process.send?.({ id: message.id, ...reply }))
  })
  process.send?.({ ready: true, url })
}

async function answer(served: ServedSubject, call: Call): Promise<{ value: number } | { error: string }> {
  try {
    return { value: await perform(served, call) }
  } catch (error) {
    return { error: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
}

async function perform(served: ServedSubject, call: Call): Promise<number> {
  if (call.work === 'cpu') {
    const { user, system } = process.cpuUsage()
    return user + system
  }
  if (call.work === 'close') {
    await served.app?.close()
    await served.close?.()
    return 0
  }
  const work = served.work?.[call.work]
  if (!work) throw new Error(`this subject has no work "${call.work}"`)
  return work(call.request)
}

/**
 * Calls of `once` a second, made one after another for `ms`. `once` checks its own answer and throws when it
 * is wrong; no two calls have the same `index`. The clock is read every `batch` calls, so that reading it is not what is
 * measured.
 */
export async function callsPerSecond(
  ms: number,
  once: (index: number) => unknown,
  { batch = 64, concurrency = 1 }: { batch?: number; concurrency?: number } = {}
): Promise<number> {
  let count = 0
  const begin = process.hrtime.bigint()
  const end = begin + BigInt(Math.round(ms * 1e6))
  const lane = async (): Promise<void> => {
    do {
      const first = count
      count += batch
      for (let index = 0; index < batch; index++) await once(first + index)
    } while (process.hrtime.bigint() < end)
  }
  await Promise.all(Array.from({ length: concurrency }, lane))
  return (count / Number(process.hrtime.bigint() - begin)) * 1e9
}

/** As {@link callsPerSecond} for a synchronous function: no promise is made between two calls. */
export function syncCallsPerSecond(ms: number, once: (index: number) => void, batch = 1024): number {
  let count = 0
  const begin = process.hrtime.bigint()
  const end = begin + BigInt(Math.round(ms * 1e6))
  do {
    for (let index = 0; index < batch; index++) once(count + index)
    count += batch
  } while (process.hrtime.bigint() < end)
  return (count / Number(process.hrtime.bigint() - begin)) * 1e9
}
