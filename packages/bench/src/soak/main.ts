import { mkdir, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { runColdReader, runRevoker, Writer, type Stage } from './actors.js'
import { perform } from './faults.js'
import { startSoakFleet, type SoakFleet } from './fleet.js'
import { invariants, Ledger, type Invariant } from './ledger.js'
import { Listener } from './listener.js'
import { planFaults, randomFrom, type PlannedFault } from './plan.js'
import { recovered, RECOVERY } from './recovery.js'
import { timelineOf } from './timeline.js'
import { Vitals } from './vitals.js'

const USAGE = `usage: pnpm soak [--minutes N] [--seed N] [--break NAME[,NAME]] [--out DIR]

  --minutes N   how long the load runs (10; fractions are fine)
  --seed N      the faults of an earlier run again (default: drawn, and printed)
  --break NAME  breaks invariants on purpose: ${Object.keys(invariants).join(', ')}
  --out DIR     where the timeline and the figures are written (default: soak)`

const INSTANCES = 3
const WRITERS = 4
const LISTENERS = 8
/** A run that breaks something lasts until that has shown, and at most this long, in milliseconds. */
const LONGEST = 150_000
/** Entries of each writer that a run which breaks something needs: every tenth is doubled, every one leaks. */
const ENTRIES = 30
/** Milliseconds that a socket may bring nothing before what it lacks counts as lost. */
const PATIENCE = 5_000

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    args: process.argv.slice(2).filter((argument) => argument !== '--'),
    options: {
      minutes: { type: 'string', default: '10' },
      seed: { type: 'string' },
      break: { type: 'string', default: '' },
      out: { type: 'string', default: 'soak' }
    }
  })
  const minutes = Number(values.minutes)
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed)
  const broken = values.break.split(',').filter(Boolean)
  if (!(minutes > 0) || !Number.isInteger(seed)) throw new TypeError('--minutes and --seed are numbers')
  const unknown = broken.find((name) => !Object.hasOwn(invariants, name))
  if (unknown !== undefined) throw new TypeError(`there is no invariant "${unknown}"`)

  const length = minutes * 60_000
  const plan = broken.length === 0 ? planFaults(seed, length, INSTANCES) : planFor(broken)
  console.log(`Seed ${seed}; again with: pnpm soak --minutes ${minutes} --seed ${seed}`)
  console.log(`Starting Redis under Sentinel, PostgreSQL with two replicas, ${INSTANCES} instances, nginx …`)
  const fleet = await startSoakFleet(INSTANCES, broken.join(','))
  const ledger = new Ledger()
  try {
    await run(fleet, ledger, { plan, length, seed, broken: broken as Invariant[] })
  } finally {
    await fleet.stop()
  }
  report(ledger)
  const out = resolve(process.env['INIT_CWD'] ?? '.', values.out)
  await mkdir(out, { recursive: true })
  const title = `soak ${minutes} min, seed ${seed}${broken.length === 0 ? '' : `, ${broken.join(' and ')} broken`}`
  await writeFile(join(out, `${seed}.svg`), timelineOf(ledger, title))
  await writeFile(
    join(out, `${seed}.json`),
    JSON.stringify({ seed, minutes, broken, plan, ...ledger.account() }, null, 1)
  )
  console.log(`Timeline: ${join(out, `${seed}.svg`)}`)
  return ledger.violations.length === 0
}

/** A broken invariant must show in a fleet that is otherwise well; only a stale read needs a replica that lags. */
function planFor(broken: readonly string[]): PlannedFault[] {
  const count = broken.includes('stale') ? Math.floor(LONGEST / 5_000) : 0
  return Array.from({ length: count }, (_, turn) => ({
    at: 3_000 + turn * 5_000,
    fault: 'replica-replay-pause',
    target: turn,
    duration: 2_000
  }))
}

interface Run {
  readonly plan: readonly PlannedFault[]
  readonly length: number
  readonly seed: number
  readonly broken: readonly Invariant[]
}

async function run(fleet: SoakFleet, ledger: Ledger, { plan, length, seed, broken }: Run): Promise<void> {
  const stop = new AbortController()
  const stage: Stage = { url: fleet.url, ledger, signal: stop.signal, random: randomFrom(seed + 1) }
  const retried = new Set<string>()
  const listeners = await Promise.all(
    Array.from({ length: LISTENERS }, () => Listener.open(fleet.url, ledger, retried))
  )
  const writers = Array.from({ length: WRITERS }, (_, lane) => new Writer(`lane${lane}`, stage, retried))
  const load = [
    ...writers.map((writer) => writer.run()),
    runRevoker(stage, 'ada'),
    runRevoker(stage, 'bob'),
    runColdReader(stage)
  ]
  const vitals = new Vitals(fleet, ledger)
  await sleep(4_000)
  await vitals.baseline()
  // On a busy machine a run of a fixed length may end before what it breaks has been met once.
  const over = (): boolean =>
    ledger.now() >= length &&
    (broken.length === 0 || ledger.now() >= LONGEST || hasShown(broken, ledger, writers))
  for (const fault of plan) {
    if (broken.length > 0 && over()) break
    const wait = fault.at - ledger.now()
    if (wait > 0) await sleep(wait)
    const name = `${fault.fault} ${fault.target + 1}`
    console.log(`  ${(ledger.now() / 1_000).toFixed(0).padStart(5)} s  ${name}`)
    await ledger.during(name, async () => {
      await perform[fault.fault](fleet, fault)
      const mended = ledger.now()
      const whole = await recovered(fleet, ledger)
      ledger.check('failed', whole, `${name}: the fleet was not whole ${RECOVERY} ms after it was mended`)
      console.log(
        `           whole ${whole ? (ledger.now() - mended).toFixed(0) : 'not yet'} ms after it was mended`
      )
    })
  }
  while (!over()) await sleep(100)
  stop.abort()
  await Promise.all(load)

  await Promise.all(
    writers.map(async (writer) => {
      await writer.verify()
      await Promise.all(listeners.map((listener) => delivered(listener, writer, ledger)))
    })
  )
  const gaps = listeners.reduce((sum, listener) => sum + listener.gaps, 0)
  const acknowledged = writers.reduce((sum, writer) => sum + writer.acknowledged.length, 0)
  console.log(`${acknowledged} messages acknowledged, ${LISTENERS} sockets, ${gaps} gaps declared`)
  for (const listener of listeners) listener.close()
  await vitals.verify()
}

/** Whether each broken invariant was violated; a loss and a leak show at the end, after enough entries. */
function hasShown(broken: readonly Invariant[], ledger: Ledger, writers: readonly Writer[]): boolean {
  const atTheEnd = new Set<Invariant>(['lost', 'leak'])
  return (
    writers.every(({ acknowledged }) => acknowledged.length >= ENTRIES) &&
    broken.every(
      (name) => atTheEnd.has(name) || ledger.violations.some(({ invariant }) => invariant === name)
    )
  )
}

async function delivered(listener: Listener, { lane, acknowledged }: Writer, ledger: Ledger): Promise<void> {
  let missing = listener.missing(lane, acknowledged)
  let since = ledger.now()
  // A socket may still be catching up; what has not moved for this long does not come.
  while (missing.length > 0 && ledger.now() < since + PATIENCE) {
    await sleep(100)
    const left = listener.missing(lane, acknowledged)
    if (left.length < missing.length) since = ledger.now()
    missing = left
  }
  ledger.check(
    'lost',
    missing.length === 0,
    `${missing.length} of ${lane} were lost (${missing.slice(0, 4).join(', ')})`
  )
}

function report(ledger: Ledger): void {
  const names = Object.keys(invariants) as Invariant[]
  console.log('')
  for (const name of names) {
    const violations = ledger.violations.filter(({ invariant }) => invariant === name)
    const checked = ledger.checked[name].toLocaleString('en-US').padStart(10)
    console.log(`  ${violations.length === 0 ? '✓' : '✗'} ${invariants[name].padEnd(52)} ${checked} checks`)
    for (const { at, what } of violations.slice(0, 5))
      console.log(`      at ${(at / 1_000).toFixed(1)} s: ${what}`)
    if (violations.length > 5) console.log(`      and ${violations.length - 5} more`)
  }
  const failed = ledger.seconds.reduce((sum, second) => sum + second.failed, 0)
  const answered = ledger.seconds.reduce((sum, second) => sum + second.answered, 0)
  console.log(
    `\n${answered} requests answered, ${failed} failed while something was broken or had just been\n`
  )
}

try {
  process.exit((await main()) ? 0 : 1)
} catch (error) {
  console.error(error instanceof TypeError ? `${error.message}\n\n${USAGE}` : error)
  process.exit(2)
}
