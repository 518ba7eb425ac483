/** `true`, or why not: kind of failure and text. */
export type Results = Record<string, true | false | readonly [string, string?]>

export interface SuiteTest {
  readonly id: string
  readonly name: string
  readonly kind?: 'required' | 'optimal' | 'check'
  readonly depends_on?: readonly string[]
  readonly browser_only?: boolean
}
export type Suites = readonly { readonly name: string; readonly tests: readonly SuiteTest[] }[]

interface Count {
  pass: number
  fail: number
  /** Not counted: a test that it depends on failed, or the test could not be set up. */
  uncounted: number
  /** By the test's own checks alone. */
  raw: number
}

export interface Counts {
  readonly required: Readonly<Count>
  readonly optimal: Readonly<Count>
  readonly check: Readonly<Count>
  readonly table: string
  /** One line each, required ones first. */
  readonly failures: readonly string[]
}

/** Counts as the suite does: a test counts only if those that it depends on pass. */
export function countsOf(suites: Suites, results: Results): Counts {
  const tests = suites.flatMap((one) => one.tests).filter((test) => test.browser_only !== true)
  const byId = new Map(tests.map((test) => [test.id, test]))
  const stands = (test: SuiteTest): boolean =>
    results[test.id] === true &&
    (test.depends_on ?? []).every((id) => {
      const other = byId.get(id)
      return other === undefined || stands(other)
    })
  const counts = { required: none(), optimal: none(), check: none() }
  const failures: [string, string][] = []
  for (const test of tests) {
    const kind = test.kind ?? 'required'
    const result = results[test.id]
    const count = counts[kind]
    if (result === true) count.raw++
    const depends = (test.depends_on ?? []).map((id) => byId.get(id)).filter((one) => one !== undefined)
    const setUp = Array.isArray(result) && result[0] === 'Setup'
    if (!depends.every(stands) || setUp || result === undefined) count.uncounted++
    else if (result === true) count.pass++
    else count.fail++
    if (result !== true && kind !== 'check') {
      const why = Array.isArray(result) ? result.join(': ') : String(result)
      failures.push([kind, `${kind}  ${test.id}  ${test.name}  ${why}`])
    }
  }
  const rows = Object.entries(counts).map(
    ([kind, { pass, fail, uncounted, raw }]) =>
      `${kind.padEnd(9)} pass ${pass}  fail ${fail}  uncounted ${uncounted}  raw ${raw}`
  )
  const raw = counts.required.raw + counts.optimal.raw
  const of = tests.filter((test) => test.kind !== 'check').length
  return {
    ...counts,
    table: [...rows, `raw required + optimal: ${raw} of ${of}`].join('\n'),
    failures: failures.sort(([a], [b]) => (a === b ? 0 : a === 'required' ? -1 : 1)).map(([, line]) => line)
  }
}

function none(): Count {
  return { pass: 0, fail: 0, uncounted: 0, raw: 0 }
}
