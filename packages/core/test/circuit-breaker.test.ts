import { test } from 'tap'
import { CircuitBreaker, type CircuitBreakerOptions, type CircuitState } from '../src/index.js'

const failure = new Error('no answer')

function breaker(options: Partial<CircuitBreakerOptions> = {}) {
  const states: CircuitState[] = []
  const time = { now: 0 }
  const circuit = new CircuitBreaker({
    failures: 3,
    backoff: { firstMs: 100, maxMs: 1_000, random: () => 1 },
    onChange: (state) => states.push(state),
    now: () => time.now,
    ...options
  })
  const fail = (): void => circuit.failed(circuit.enter()!, failure)
  /** How long calls are kept off from now on. */
  const pause = (): number => {
    const from = time.now
    while (!circuit.allows) time.now++
    return time.now - from
  }
  return { circuit, states, fail, pause }
}

test('opens after failures in a row; a success between them counts for all before it', async (t) => {
  const { circuit, states, fail } = breaker()
  fail()
  fail()
  circuit.succeeded(circuit.enter()!)
  fail()
  fail()
  t.equal(circuit.state, 'closed')
  fail()
  t.equal(circuit.state, 'open')
  t.equal(circuit.enter(), undefined)
  t.equal(circuit.allows, false)
  t.same(states, ['open'])
})

test('after the pause one call tries, alone, and closes it', async (t) => {
  const { circuit, states, fail, pause } = breaker({ failures: 1 })
  fail()
  pause()
  const trial = circuit.enter()
  t.ok(trial)
  t.equal(circuit.state, 'half-open')
  t.equal(circuit.allows, false)
  t.equal(circuit.enter(), undefined, 'one at a time')
  circuit.succeeded(trial!)
  t.equal(circuit.state, 'closed')
  t.ok(circuit.enter())
  t.same(states, ['open', 'half-open', 'closed'])
})

test('each trial that fails opens it for longer; once closed, the next pause is the first one', async (t) => {
  const { circuit, fail, pause } = breaker({ failures: 1 })
  const pauses = Array.from({ length: 6 }, () => {
    fail()
    return pause()
  })
  t.same(pauses, [100, 200, 400, 800, 1_000, 1_000])
  circuit.succeeded(circuit.enter()!)
  fail()
  t.equal(pause(), 100)
})

test('a trial that says nothing lets the next call try', async (t) => {
  const { circuit, fail, pause } = breaker({ failures: 1 })
  fail()
  pause()
  circuit.undecided(circuit.enter()!)
  t.equal(circuit.state, 'half-open')
  const trial = circuit.enter()
  t.ok(trial)
  circuit.failed(trial!, failure)
  t.equal(circuit.state, 'open')
})

test('a trial whose outcome never comes is replaced, and counts for nothing then', async (t) => {
  const { circuit, fail, pause } = breaker({ failures: 1 })
  fail()
  pause()
  const lost = circuit.enter()!
  pause()
  const trial = circuit.enter()!
  t.not(lost, trial)
  circuit.failed(lost, failure)
  t.equal(circuit.state, 'half-open')
  circuit.undecided(lost)
  t.equal(circuit.enter(), undefined, 'the second trial is still under way')
  circuit.succeeded(trial)
  t.equal(circuit.state, 'closed')
})

test('calls that began before a change say nothing after it', async (t) => {
  const { circuit, fail, pause } = breaker({ failures: 2 })
  const [slow, slower, slowest] = [circuit.enter()!, circuit.enter()!, circuit.enter()!]
  fail()
  fail()
  circuit.succeeded(slow)
  t.equal(circuit.state, 'open', 'a success from before it opened does not close it')
  pause()
  const trial = circuit.enter()!
  circuit.failed(slower, failure)
  t.equal(circuit.state, 'half-open', 'a failure from before is not that of the trial')
  circuit.succeeded(trial)
  circuit.failed(slowest, failure)
  fail()
  t.equal(circuit.state, 'closed', 'nor one of two failures in a row after it closed')
  fail()
  t.equal(circuit.state, 'open')
})

test('the server was reached by another way: a call tries before the pause is over', async (t) => {
  const { circuit, fail } = breaker({ failures: 1, backoff: { firstMs: 600_000, maxMs: 600_000 } })
  circuit.reachable()
  t.equal(circuit.state, 'closed')
  fail()
  t.equal(circuit.enter(), undefined)
  circuit.reachable()
  t.equal(circuit.state, 'half-open')
  circuit.succeeded(circuit.enter()!)
  t.equal(circuit.state, 'closed')
})

test('with a probe no call tries: it closes when the probe has succeeded', async (t) => {
  const outcomes = [failure, failure, undefined]
  let probes = 0
  let closed!: () => void
  const done = new Promise<void>((resolve) => {
    closed = resolve
  })
  const states: CircuitState[] = []
  const circuit: CircuitBreaker = new CircuitBreaker({
    failures: 1,
    backoff: { firstMs: 2, maxMs: 5 },
    probe: async () => {
      t.equal(circuit.enter(), undefined, 'while it is probed')
      const outcome = outcomes[probes++]
      if (outcome) throw outcome
    },
    onChange: (state) => {
      states.push(state)
      if (state === 'closed') closed()
    }
  })
  const alive = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(alive))
  circuit.failed(circuit.enter()!, failure)
  t.equal(circuit.enter(), undefined)
  await done
  t.equal(probes, 3)
  t.same(states, ['open', 'half-open', 'open', 'half-open', 'open', 'half-open', 'closed'])
  t.ok(circuit.enter())
})

test('reachable() probes at once, and a probe that throws in place of rejecting has failed', async (t) => {
  let fails = true
  const circuit = new CircuitBreaker({
    failures: 1,
    backoff: { firstMs: 600_000, maxMs: 600_000 },
    probe: () => {
      if (fails) throw failure
      return Promise.resolve()
    }
  })
  circuit.failed(circuit.enter()!, failure)
  circuit.reachable()
  t.equal(circuit.state, 'open')
  fails = false
  circuit.reachable()
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(circuit.state, 'closed')
  circuit.stop()
})

test('stopped, it lets nothing through and probes no more', async (t) => {
  let probes = 0
  const circuit = new CircuitBreaker({
    failures: 1,
    backoff: { firstMs: 1, maxMs: 1 },
    probe: async () => void probes++
  })
  circuit.failed(circuit.enter()!, failure)
  circuit.stop()
  circuit.reachable()
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.equal(probes, 0)
  t.equal(circuit.enter(), undefined)
  const idle = new CircuitBreaker({ failures: 1, backoff: { firstMs: 1, maxMs: 1 } })
  idle.stop()
  t.equal(idle.enter(), undefined)
})
