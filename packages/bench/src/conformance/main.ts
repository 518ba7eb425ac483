/**
 * Runs the public conformance suite for HTTP caches (http-tests/cache-tests) through our cache as a proxy:
 * `npx pnpm --filter ./packages/bench conformance --suite DIR [--grace 1h] [--id TEST]`, where DIR is a checkout of the
 * suite after `npm install`. Prints how many tests pass and names each required one that fails.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { request as send, type IncomingMessage, type ServerResponse } from 'node:http'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import flotillaCache from '@flotilla/cache'
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import { countsOf, type Results, type Suites } from './counts.js'

const { values } = parseArgs({
  options: { suite: { type: 'string' }, grace: { type: 'string' }, id: { type: 'string' } }
})
if (values.suite === undefined) {
  console.error('conformance: --suite must name a checkout of http-tests/cache-tests')
  process.exit(2)
}
const suite = resolve(values.suite)

/** Headers of one connection, which a proxy does not pass on. */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'transfer-encoding',
  'upgrade',
  'proxy-connection',
  'te'
])

const origin = await startOrigin()
const proxy = await startProxy(origin.port)
try {
  const { results, tests } = await runSuite(proxy.url)
  const counts = countsOf(tests, results)
  console.log(counts.table)
  for (const line of counts.failures) console.log(line)
  process.exitCode = counts.required.fail === 0 ? 0 : 1
} finally {
  await proxy.app.close()
  origin.process.kill()
}

/** The suite's own server, whose responses each test prescribes. */
async function startOrigin(): Promise<{ port: number; process: ChildProcess }> {
  const child = spawn(process.execPath, [join(suite, 'test-engine/server/server.mjs')], {
    env: {
      ...process.env,
      npm_config_protocol: 'http',
      npm_config_port: '0',
      npm_config_pidfile: '/dev/null'
    },
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  return { port: Number(/:(\d+)\//.exec(line.toString())?.[1]), process: child }
}

/** A Fastify app that passes every request on to the origin, GET and HEAD through the cache. */
async function startProxy(originPort: number): Promise<{ app: FastifyInstance; url: string }> {
  const app = Fastify({ exposeHeadRoutes: false, forceCloseConnections: true })
  await app.register(flotillaCache, { redis: false, http: { cacheControl: false } })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
  const cache = { shared: true, ...(values.grace === undefined ? {} : { grace: values.grace }) }
  const methods = ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']
  app.addHttpMethod('M-SEARCH', { hasBody: true })
  app.route({
    method: ['GET', 'HEAD'],
    url: '/*',
    config: { cache },
    handler: async (request, reply) => {
      const response = await forward(originPort, request.raw, reply.raw)
      return pass(response, reply)
    }
  })
  app.route({
    method: [...methods, 'M-SEARCH'],
    url: '/*',
    handler: async (request, reply) => pass(await forward(originPort, request.raw), reply)
  })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  return { app, url }
}

async function forward(
  port: number,
  request: IncomingMessage,
  client?: ServerResponse
): Promise<IncomingMessage> {
  const headers = Object.fromEntries(
    Object.entries(request.headers).filter(([name]) => !HOP_BY_HOP.has(name))
  )
  const sent = send({
    host: '127.0.0.1',
    port,
    method: request.method,
    path: request.url,
    headers,
    agent: false
  })
  // The suite cuts bodies off on purpose; a failure after the response has begun shows in the response.
  sent.on('error', () => undefined)
  sent.on('information', ({ statusCode, headers: early }) => {
    if (statusCode === 102) client?.writeProcessing()
    if (statusCode === 103) client?.writeEarlyHints(early as Record<string, string>)
  })
  request.pipe(sent)
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  return response
}

function pass(response: IncomingMessage, reply: FastifyReply): FastifyReply {
  reply.code(response.statusCode ?? 502)
  const listed = new Set(
    (response.headers.connection ?? '').split(',').map((name) => name.trim().toLowerCase())
  )
  for (const [name, lines] of Object.entries(response.headersDistinct)) {
    if (lines === undefined || HOP_BY_HOP.has(name) || listed.has(name)) continue
    void reply.header(name, name === 'set-cookie' ? lines : lines.join(', '))
  }
  return reply.send(response)
}

/** Runs the suite's own client in this process. */
async function runSuite(base: string): Promise<{ results: Results; tests: Suites }> {
  const load = async (file: string): Promise<Record<string, unknown>> =>
    (await import(pathToFileURL(join(suite, file)).href)) as Record<string, unknown>
  const { runTests, getResults } = (await load('test-engine/client/runner.mjs')) as {
    runTests: (tests: Suites, browser: boolean, base: string) => Promise<void>
    getResults: () => Results
  }
  const { default: tests } = (await load('tests/index.mjs')) as { default: Suites }
  const chosen =
    values.id === undefined
      ? tests
      : tests.map((one) => ({
          ...one,
          tests: one.tests.filter(({ id }) => id === values.id).map((test) => ({ ...test, dump: true }))
        }))
  await runTests(chosen, false, base)
  return { results: getResults(), tests: chosen }
}
