import { parseArgs } from 'node:util'
import { DemoError } from './errors.js'

export interface Command {
  /** Walk the story without a browser, print a table, and end. */
  readonly check: boolean
  readonly balancer: 'nginx' | 'haproxy'
  /** 0: any free port. */
  readonly port: number
  readonly redis: 'single' | 'sentinel' | 'cluster'
  readonly instances: number
  /** With `check`: only the chapters whose name contains this. */
  readonly only: string
  /** With `check`: a fleet that runs already, by the address of its balancer; empty to start one. */
  readonly url: string
  readonly help: boolean
}

export const USAGE = `usage: pnpm demo [--check [--only TEXT] [--url URL]] [--haproxy] [--port N] [--redis single|sentinel|cluster] [--instances N]

  --check        walk the story without a browser, print what held, exit 0 or 1
  --only TEXT    check only what has this in its name
  --url URL      check a fleet that runs already, through its balancer: what needs no fault of its servers
  --haproxy      HAProxy in front instead of nginx
  --port N       the port of the load balancer (default: a free one)
  --redis KIND   one server, a Sentinel group or a Cluster (default: single)
  --instances N  instances of the app, 2 to 6 (default: 3)`

/** @throws DEMO_ERR_USAGE */
export function parseCommand(args: readonly string[]): Command {
  let values
  try {
    values = parseArgs({
      args: args.filter((argument) => argument !== '--'),
      options: {
        check: { type: 'boolean', default: false },
        haproxy: { type: 'boolean', default: false },
        port: { type: 'string', default: '0' },
        redis: { type: 'string', default: 'single' },
        instances: { type: 'string', default: '3' },
        only: { type: 'string', default: '' },
        url: { type: 'string', default: '' },
        help: { type: 'boolean', short: 'h', default: false }
      }
    }).values
  } catch (error) {
    throw usage((error as Error).message, error)
  }
  const { redis } = values
  if (redis !== 'single' && redis !== 'sentinel' && redis !== 'cluster') {
    throw usage(`--redis must be single, sentinel or cluster, not "${redis}"`)
  }
  const { url } = values
  if (url !== '' && !(values.check && /^https?:$/.test(URL.parse(url)?.protocol ?? ''))) {
    throw usage(`--url takes http://host:port and belongs to --check, not "${url}"`)
  }
  return {
    url: url.replace(/\/+$/, ''),
    check: values.check,
    balancer: values.haproxy ? 'haproxy' : 'nginx',
    port: whole('--port', values.port, 0, 65_535),
    redis,
    instances: whole('--instances', values.instances, 2, 6),
    only: values.only,
    help: values.help
  }
}

function whole(option: string, text: string, least: number, most: number): number {
  const value = Number(text)
  if (text !== '' && Number.isInteger(value) && value >= least && value <= most) return value
  throw usage(`${option} must be a whole number from ${least} to ${most}, not "${text}"`)
}

function usage(message: string, cause?: unknown): DemoError {
  return new DemoError('DEMO_ERR_USAGE', `${message}\n\n${USAGE}`, cause)
}
