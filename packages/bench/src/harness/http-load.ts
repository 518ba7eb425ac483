/* The load process behind `http`: autocannon, away from the process that is measured. */
import autocannon from 'autocannon'
import type { Expectation, HttpPlan } from './measures.js'
import { serveSubjects } from './subject.js'

interface Load extends HttpPlan {
  readonly url: string
  readonly figure: 'rate' | 'p50' | 'p99'
}

serveSubjects({
  'http-load': () => ({ work: { load: ({ ms, args }) => load(args as unknown as Load, ms) } })
})

/** A process just started needs this long for its first answers, in milliseconds. */
const LEAST = 100
/** A stretch in which nothing was answered is repeated, each time longer, up to this many milliseconds. */
const LONGEST = 10_000

async function load(plan: Load, ms: number): Promise<number> {
  let length = Math.max(ms, LEAST)
  for (;;) {
    const figure = await stretch(plan, length)
    if (figure !== undefined) return figure
    // Slow is not wrong: on a busy machine a heavy request may take longer than a short stretch.
    if (length >= LONGEST) throw new Error(`not one request was answered in ${length} ms`)
    length = Math.min(length * 4, LONGEST)
  }
}

async function stretch(
  { url, requests, connections = 32, figure }: Load,
  length: number
): Promise<number | undefined> {
  let wrong = 0
  let first = ''
  const list = requests.map(({ expect = {}, method = 'GET', ...request }) => ({
    ...request,
    method,
    onResponse(status: number, body: string) {
      const problem = check(expect, status, body)
      if (!problem) return
      wrong++
      first ||= `${method} ${request.path}: ${problem}`
    }
  })) as autocannon.Request[]
  let next = 0
  const result = await autocannon({
    url,
    connections,
    duration: length / 1000,
    sampleInt: 20,
    timeout: 10,
    requests: list,
    // Every connection begins elsewhere, so that they do not all hold the same session at the same time.
    setupClient(client) {
      if (list.length < 2) return
      const turn = Math.floor((next++ * list.length) / connections) % list.length
      client.setRequests([...list.slice(turn), ...list.slice(0, turn)])
    }
  })
  if (wrong > 0) throw new Error(`${wrong} wrong answers; the first: ${first}`)
  if (result.errors + result.timeouts > 0) {
    throw new Error(`${result.errors} connection errors, ${result.timeouts} timeouts`)
  }
  const seconds = (result.finish.getTime() - result.start.getTime()) / 1000
  if (result.requests.total === 0) return undefined
  if (figure === 'rate') return result.requests.total / seconds
  return figure === 'p50' ? result.latency.p50 : result.latency.p99
}

function check(expect: Expectation, status: number, body: string): string | undefined {
  if (status !== (expect.status ?? 200)) return `status ${status}, body ${body.slice(0, 200)}`
  if (expect.body !== undefined && body !== expect.body) {
    return `body ${body.slice(0, 200)} instead of ${expect.body.slice(0, 200)}`
  }
  if (expect.includes !== undefined && !body.includes(expect.includes)) {
    return `body ${body.slice(0, 200)} without ${expect.includes}`
  }
  return undefined
}
