import { isAbsolute, resolve } from 'node:path'
import { parseArgs } from 'node:util'

export interface Command {
  /** A suite's name, or `all`. */
  readonly suite: string
  /** Only these cases; empty for every one. */
  readonly cases: readonly string[]
  readonly json: string | undefined
  readonly svg: string | undefined
  readonly quick: boolean
  readonly rounds: number | undefined
  readonly ms: number | undefined
}

export class UsageError extends Error {
  override name = 'UsageError'
}

export const USAGE = `usage: pnpm bench [suite|all] [case…] [--json FILE] [--svg DIR] [--quick] [--rounds N] [--ms N]

  --json FILE   write the figures as JSON
  --svg DIR     write a chart for each suite
  --quick       only see that everything runs and answers right; its figures mean little
  --rounds N    rounds of each case (7)
  --ms N        milliseconds of each round and subject (2000)`

export function parseCommand(args: readonly string[], suites: readonly string[]): Command {
  // What stands before the script's own arguments when a package manager hands them on.
  const given = args.filter((argument) => argument !== '--')
  let parsed
  try {
    parsed = parseArgs({
      args: given,
      allowPositionals: true,
      options: {
        json: { type: 'string' },
        svg: { type: 'string' },
        quick: { type: 'boolean', default: false },
        rounds: { type: 'string' },
        ms: { type: 'string' }
      }
    })
  } catch (error) {
    throw new UsageError((error as Error).message, { cause: error })
  }
  const { values, positionals } = parsed
  const [suite = 'all', ...cases] = positionals
  if (suite !== 'all' && !suites.includes(suite)) {
    throw new UsageError(`no suite "${suite}"; there are ${suites.join(', ')} and all`)
  }
  return {
    suite,
    cases,
    json: path(values.json),
    svg: path(values.svg),
    quick: values.quick,
    rounds: count('--rounds', values.rounds),
    ms: count('--ms', values.ms)
  }
}

/** Relative to where the command was typed: a package manager runs us in the package's folder. */
function path(given: string | undefined): string | undefined {
  if (given === undefined || isAbsolute(given)) return given
  return resolve(process.env['INIT_CWD'] ?? process.cwd(), given)
}

function count(option: string, given: string | undefined): number | undefined {
  if (given === undefined) return undefined
  const value = Number(given)
  if (!Number.isInteger(value) || value < 1)
    throw new UsageError(`${option} must be a whole number from 1 up`)
  return value
}
