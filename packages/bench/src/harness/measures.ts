import { WrongAnswer, type Measure, type Round } from './suite.js'

/** What a response must be; anything else voids the run. */
export interface Expectation {
  /** Default 200. */
  readonly status?: number
  /** The exact body. */
  readonly body?: string
  /** Text the body must contain. */
  readonly includes?: string
}

export interface HttpRequest {
  /** Default GET. */
  readonly method?: 'GET' | 'POST' | 'PUT' | 'DELETE' | 'HEAD'
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly expect?: Expectation
}

/** The load on one subject: connections take the requests in turn, each from a place of its own. */
export interface HttpPlan {
  readonly requests: readonly HttpRequest[]
  /** Keep-alive connections, one request at a time on each. Default 32. */
  readonly connections?: number
}

export interface HttpOptions {
  /** Made once for each subject of a case: log in, fill a cache, and say what to ask. */
  readonly plan: (context: { url: string; subject: string; round: Round }) => HttpPlan | Promise<HttpPlan>
  /** `rate`: requests a second; otherwise a latency in milliseconds. Default `rate`. */
  readonly figure?: 'rate' | 'p50' | 'p99'
}

/** Loads the subject over HTTP from a separate process, and checks every answer. */
export function http({ plan, figure = 'rate' }: HttpOptions): Measure {
  const plans = new Map<string, HttpPlan>()
  return async (round) => {
    const url = round.urls[0]
    if (!url) throw new Error(`subject ${round.subject} does not listen: give its process an app or a url`)
    let made = plans.get(url)
    if (!made) plans.set(url, (made = await plan({ url, subject: round.subject, round })))
    const load = await round.process(HTTP_LOAD)
    return load.work('load', { ms: round.ms, args: { url, figure, ...made } })
  }
}

/** Name of the load process that {@link http} uses; the harness itself serves it. */
export const HTTP_LOAD = 'http-load'

/** Runs the work of that name inside the subject's own process. */
export function work(name: string, args: Readonly<Record<string, unknown>> = {}): Measure {
  return ({ processes, ms, quick, warmup, subject }) => {
    const first = processes[0]
    if (!first) throw new WrongAnswer(`subject ${subject} has no process`)
    return first.work(name, { ms, quick, warmup, args })
  }
}

/**
 * Runs work in another process of the suite (`process`, default `driver`), which is told the subject's name
 * and addresses in `args.subject` and `args.urls`: for load that is not plain HTTP.
 */
export function drive(
  name: string,
  { process = 'driver', args = {} }: { process?: string; args?: Readonly<Record<string, unknown>> } = {}
): Measure {
  return async (round) => {
    const driver = await round.process(process)
    return driver.work(name, {
      ms: round.ms,
      quick: round.quick,
      warmup: round.warmup,
      args: { ...args, subject: round.subject, urls: round.urls }
    })
  }
}
