import type { SubjectProcess } from './processes.js'

/** Servers the harness starts once for a run; their addresses reach every process by environment. */
export type ServerName = 'redis' | 'postgres'

/** One measured stretch of one subject in one case. */
export interface Round {
  /** The subject's name as it is reported. */
  readonly subject: string
  /** The subject's processes, `instances` of them, and their addresses where they listen. */
  readonly processes: readonly SubjectProcess[]
  readonly urls: readonly string[]
  /** How long to measure, in milliseconds. */
  readonly ms: number
  /** True in `--quick`: only see that it runs and answers right. */
  readonly quick: boolean
  /** True for the stretch before the rounds, whose figure is thrown away (its answers are checked). */
  readonly warmup: boolean
  /** Addresses of the servers: `REDIS_URL`, `DATABASE_URL`, `DATABASE_REPLICA_URL`. */
  readonly env: Readonly<Record<string, string>>
  /** The suite's process of that name, started on first use: a load driver of the suite's own. */
  process(name: string): Promise<SubjectProcess>
}

/** Measures one stretch and returns the figure in the case's unit. Throwing voids the case and ends the run. */
export type Measure = (round: Round) => Promise<number>

/** What stands behind a reported subject name. */
export interface SubjectSpec {
  /** Name in the suite's subjects script. Default: the reported name. */
  readonly process?: string
  /** How many processes of it run at once. Default 1. */
  readonly instances?: number
}

export interface Case {
  readonly name: string
  /** One sentence: what is done, with which payload. */
  readonly title: string
  readonly unit: string
  /** Default true. */
  readonly higherIsBetter?: boolean
  /** `flotilla`, `floor`, `bare` and peers by package name; ours first. A record maps to other processes. */
  readonly subjects: readonly string[] | Readonly<Record<string, SubjectSpec>>
  readonly measure: Measure
  /** Starts the processes for this case alone and stops them after it; default false: shared in the suite. */
  readonly fresh?: boolean
  /** Flags of Node.js for processes of this case alone (`fresh`). */
  readonly flags?: readonly string[]
  /** Measures fewer rounds where one is slow: at most this many. */
  readonly maxRounds?: number
  /** Milliseconds a stretch may take before the run is void, over its own `ms`. Default 60,000. */
  readonly patience?: number
}

export interface Suite {
  readonly name: string
  readonly title: string
  readonly servers: readonly ServerName[]
  /** Script that calls `serveSubjects`; compiled, so `.js`. */
  readonly subjects: URL
  /** Runs once before the first case: schema and rows. */
  readonly prepare?: (env: Readonly<Record<string, string>>) => Promise<void>
  readonly cases: readonly Case[]
}

/** Types a suite, and refuses what would only show after minutes of running. */
export function defineSuite(suite: Suite): Suite {
  const seen = new Set<string>()
  for (const one of suite.cases) {
    if (seen.has(one.name)) throw new Error(`suite ${suite.name}: two cases are called "${one.name}"`)
    seen.add(one.name)
    if (one.flags && !one.fresh) {
      throw new Error(`suite ${suite.name}, case ${one.name}: "flags" are for processes of its own: "fresh"`)
    }
    if (subjectsOf(one)[0]?.name !== 'flotilla') {
      throw new Error(`suite ${suite.name}, case ${one.name}: the first subject must be "flotilla"`)
    }
  }
  return suite
}

export interface NamedSubject {
  readonly name: string
  readonly process: string
  readonly instances: number
}

export function subjectsOf(one: Case): NamedSubject[] {
  const entries: [string, SubjectSpec][] = Array.isArray(one.subjects)
    ? (one.subjects as readonly string[]).map((name) => [name, {}])
    : Object.entries(one.subjects as Readonly<Record<string, SubjectSpec>>)
  return entries.map(([name, spec]) => ({
    name,
    process: spec.process ?? name,
    instances: spec.instances ?? 1
  }))
}

/** An answer was wrong: the figures of this run mean nothing. */
export class WrongAnswer extends Error {
  override name = 'WrongAnswer'
}
