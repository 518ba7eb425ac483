import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { chartOf } from './harness/chart.js'
import { parseCommand, USAGE, UsageError, type Command } from './harness/command-line.js'
import { reportOf, tableOf } from './harness/report.js'
import { paceOf, runSuites, type Outcome, type Progress } from './harness/run.js'
import { startServers } from './harness/servers.js'
import type { ServerName, Suite } from './harness/suite.js'
import { suites } from './suites/index.js'

const progress: Progress = {
  step(text) {
    if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${text}`)
  },
  done(result) {
    if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
    console.log(tableOf(result))
  }
}

async function main(): Promise<void> {
  const names = suites.map(({ name }) => name)
  const command = parseCommand(process.argv.slice(2), names)
  const chosen = choose(command)
  const pace = { ...paceOf(chosen, command.quick) }
  if (command.rounds !== undefined) pace.rounds = command.rounds
  if (command.ms !== undefined) pace.ms = command.ms

  const wanted = new Set<ServerName>(chosen.flatMap(({ servers }) => servers))
  console.log(`Starting ${[...wanted].join(' and ') || 'no servers'} …`)
  const servers = await startServers(wanted)
  let outcome: Outcome
  try {
    outcome = await runSuites(chosen, pace, servers.env, progress)
  } finally {
    await servers.stop()
  }
  const { cases, failure } = outcome
  const report = reportOf(command.suite, command.quick, cases, failure)
  if (command.json !== undefined) {
    await mkdir(dirname(command.json), { recursive: true })
    await writeFile(command.json, `${JSON.stringify(report, null, 2)}\n`)
    console.log(`Figures: ${command.json}`)
  }
  if (failure) throw failure
  if (command.svg !== undefined) {
    await mkdir(command.svg, { recursive: true })
    for (const { name } of chosen) {
      const file = join(command.svg, `${name}.svg`)
      await writeFile(
        file,
        chartOf({ ...report, suite: name, cases: cases.filter(({ suite }) => suite === name) })
      )
      console.log(`Chart: ${file}`)
    }
  }
}

function choose({ suite, cases }: Command): Suite[] {
  const chosen = suites
    .filter(({ name }) => suite === 'all' || name === suite)
    .map((one) => ({
      ...one,
      cases: one.cases.filter(({ name }) => cases.length === 0 || cases.includes(name))
    }))
  const known = new Set(chosen.flatMap((one) => one.cases.map(({ name }) => name)))
  for (const name of cases) {
    if (!known.has(name)) {
      const all = suites.filter((one) => suite === 'all' || one.name === suite).flatMap((one) => one.cases)
      throw new UsageError(`no case "${name}"; there are ${all.map((one) => one.name).join(', ')}`)
    }
  }
  return chosen.filter((one) => one.cases.length > 0)
}

try {
  await main()
  process.exit(0)
} catch (error) {
  if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
  if (error instanceof UsageError) {
    console.error(`${error.message}\n\n${USAGE}`)
    process.exit(2)
  }
  console.error(`The run is void: ${(error as Error).message}`)
  process.exit(1)
}
