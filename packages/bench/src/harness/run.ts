import { HTTP_LOAD } from './measures.js'
import { Processes, type SubjectProcess } from './processes.js'
import { subjectsOf, type Case, type Measure, type NamedSubject, type Round, type Suite } from './suite.js'

export interface SubjectResult {
  readonly subject: string
  readonly median: number
  readonly min: number
  readonly max: number
  readonly rounds: number
  /**
   * Microseconds of CPU that the subject's own processes took for each unit, median of the rounds: where the unit is so
   * many a second. Of all figures the one that a busy machine moves least.
   */
  readonly cpu?: number
}

export interface CaseResult {
  readonly suite: string
  readonly case: string
  readonly title: string
  readonly unit: string
  readonly higherIsBetter: boolean
  readonly results: readonly SubjectResult[]
  /** Our median over theirs, by `flotilla/<subject>`; below 1 is ours the smaller figure. */
  readonly ratios: Readonly<Record<string, number>>
  /** Their CPU for each unit over ours, by `flotilla/<subject>`; above 1 is ours the cheaper. */
  readonly cpuRatios?: Readonly<Record<string, number>>
}

/** One measured stretch. */
interface Sample {
  readonly figure: number
  readonly cpu: number | undefined
}

export interface Pace {
  /** Milliseconds of one measured stretch. */
  readonly ms: number
  readonly warmupMs: number
  readonly rounds: number
  readonly quick: boolean
}

export interface Progress {
  step(text: string): void
  done(result: CaseResult): void
}

/** How long to measure: the full run takes its time, the quick one shares a fixed budget among its stretches. */
export function paceOf(suites: readonly Suite[], quick: boolean): Pace {
  if (!quick) return { ms: 2_000, warmupMs: 1_000, rounds: 7, quick }
  const stretches = suites
    .flatMap((suite) => suite.cases)
    .reduce((sum, one) => sum + subjectsOf(one).length * (QUICK_ROUNDS + 0.5), 0)
  const ms = Math.min(400, Math.max(60, Math.floor(QUICK_BUDGET / Math.max(1, stretches))))
  return { ms, warmupMs: Math.floor(ms / 2), rounds: QUICK_ROUNDS, quick }
}

const QUICK_ROUNDS = 2
const QUICK_BUDGET = 35_000

/** The cases that were measured, and why the run ended before the others. */
export interface Outcome {
  readonly cases: readonly CaseResult[]
  readonly failure: Error | undefined
}

/** Measures suites until one case is void; what was measured before it is kept. */
export async function runSuites(
  suites: readonly Suite[],
  pace: Pace,
  env: Readonly<Record<string, string>>,
  progress: Progress
): Promise<Outcome> {
  const cases: CaseResult[] = []
  const collecting: Progress = {
    step: (text) => progress.step(text),
    done(result) {
      cases.push(result)
      progress.done(result)
    }
  }
  try {
    for (const suite of suites) await runSuite(suite, pace, env, collecting)
    return { cases, failure: undefined }
  } catch (error) {
    return { cases, failure: error as Error }
  }
}

/**
 * Measures every case of a suite: all its subjects run at once and take turns, A B C A B C, so that whatever
 * else the machine does meets them alike.
 */
export async function runSuite(
  suite: Suite,
  pace: Pace,
  env: Readonly<Record<string, string>>,
  progress: Progress
): Promise<CaseResult[]> {
  const processes = new Processes()
  const results: CaseResult[] = []
  try {
    await suite.prepare?.(env)
    const shared = new Pool(suite, env, processes)
    for (const one of suite.cases) {
      const pool = one.fresh ? new Pool(suite, env, processes, one.flags) : shared
      const result = await runCase(suite, one, pace, pool, env, progress)
      progress.done(result)
      results.push(result)
      if (one.fresh) await pool.stop()
    }
    return results
  } finally {
    await processes.stop()
  }
}

/** The suite's processes by name and instance, started on first use. */
class Pool {
  readonly #suite: Suite
  readonly #env: Readonly<Record<string, string>>
  readonly #processes: Processes
  readonly #flags: readonly string[]
  readonly #started = new Map<string, Promise<SubjectProcess>>()

  constructor(
    suite: Suite,
    env: Readonly<Record<string, string>>,
    processes: Processes,
    flags: readonly string[] = []
  ) {
    this.#suite = suite
    this.#env = env
    this.#processes = processes
    this.#flags = flags
  }

  get(name: string, index = 0): Promise<SubjectProcess> {
    const key = `${name}#${index}`
    let started = this.#started.get(key)
    if (!started) {
      const script = name === HTTP_LOAD ? new URL('./http-load.js', import.meta.url) : this.#suite.subjects
      started = this.#processes.start(
        script,
        name,
        { ...this.#env, SUBJECT_INDEX: String(index) },
        this.#flags
      )
      this.#started.set(key, started)
    }
    return started
  }

  async stop(): Promise<void> {
    for (const started of this.#started.values()) await (await started).stop()
    this.#started.clear()
  }
}

async function runCase(
  suite: Suite,
  one: Case,
  pace: Pace,
  pool: Pool,
  env: Readonly<Record<string, string>>,
  progress: Progress
): Promise<CaseResult> {
  const subjects = subjectsOf(one)
  const label = `${suite.name}/${one.name}`
  const isRate = one.unit.endsWith('/s')
  const stretch = async (subject: NamedSubject, ms: number, warmup: boolean): Promise<Sample> => {
    const running: SubjectProcess[] = []
    for (let index = 0; index < subject.instances; index++) {
      running.push(await pool.get(subject.process, index))
    }
    const round: Round = {
      subject: subject.name,
      processes: running,
      urls: running.map(({ url }) => url).filter(Boolean),
      ms,
      quick: pace.quick,
      warmup,
      env,
      process: (name) => pool.get(name)
    }
    const spent = isRate ? await cpuOf(running) : 0
    const begun = performance.now()
    const figure = await measured(label, subject.name, one.measure, round, one.patience ?? 60_000)
    if (!isRate || figure === 0) return { figure, cpu: undefined }
    const units = (figure * (performance.now() - begun)) / 1_000
    return { figure, cpu: ((await cpuOf(running)) - spent) / units }
  }
  for (const subject of subjects) {
    progress.step(`${label}  warm-up  ${subject.name}`)
    await stretch(subject, pace.warmupMs, true)
  }
  const samples = new Map<string, Sample[]>(subjects.map(({ name }) => [name, []]))
  const rounds = Math.min(pace.rounds, one.maxRounds ?? pace.rounds)
  for (let round = 1; round <= rounds; round++) {
    for (const subject of subjects) {
      progress.step(`${label}  round ${round}/${rounds}  ${subject.name}`)
      samples.get(subject.name)!.push(await stretch(subject, pace.ms, false))
    }
  }
  const results = Array.from(samples, ([subject, stretches]) => summarise(subject, stretches))
  return {
    suite: suite.name,
    case: one.name,
    title: one.title,
    unit: one.unit,
    higherIsBetter: one.higherIsBetter ?? true,
    results,
    ratios: ratiosOf(results, ({ median }) => median),
    ...(isRate && { cpuRatios: inverse(ratiosOf(results, ({ cpu = 0 }) => cpu)) })
  }
}

/** Microseconds of CPU that these processes have taken so far. */
async function cpuOf(processes: readonly SubjectProcess[]): Promise<number> {
  const each = await Promise.all(processes.map((one) => one.work('cpu', {})))
  return each.reduce((sum, one) => sum + one, 0)
}

async function measured(
  label: string,
  subject: string,
  measure: Measure,
  round: Round,
  patience: number
): Promise<number> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new Error(`no figure within ${round.ms + patience} ms`)),
      round.ms + patience
    )
  })
  try {
    const figure = await Promise.race([measure(round), late])
    if (!Number.isFinite(figure) || figure < 0) throw new Error(`the figure is ${figure}`)
    return figure
  } catch (error) {
    throw new Error(`${label}, subject ${subject}: ${(error as Error).message}`, { cause: error })
  } finally {
    clearTimeout(timer)
  }
}

function summarise(subject: string, samples: readonly Sample[]): SubjectResult {
  const figures = samples.map(({ figure }) => figure)
  const cpu = samples.flatMap((sample) => sample.cpu ?? [])
  return {
    subject,
    median: medianOf(figures),
    min: Math.min(...figures),
    max: Math.max(...figures),
    rounds: figures.length,
    ...(cpu.length > 0 && { cpu: medianOf(cpu) })
  }
}

function medianOf(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

function ratiosOf(
  results: readonly SubjectResult[],
  figureOf: (result: SubjectResult) => number
): Record<string, number> {
  const ours = figureOf(results[0]!)
  const ratios: Record<string, number> = {}
  for (const result of results.slice(1)) {
    const theirs = figureOf(result)
    // A figure of 0 (no stale read, no failure) has no ratio; 0 over 0 is a draw.
    const ratio = theirs === 0 ? (ours === 0 ? 1 : undefined) : ours / theirs
    if (ratio !== undefined) ratios[`flotilla/${result.subject}`] = rounded(ratio)
  }
  return ratios
}

function inverse(ratios: Readonly<Record<string, number>>): Record<string, number> {
  const known = Object.entries(ratios).filter(([, ratio]) => ratio > 0)
  return Object.fromEntries(known.map(([name, ratio]) => [name, rounded(1 / ratio)]))
}

function rounded(ratio: number): number {
  return Math.round(ratio * 1_000) / 1_000
}
