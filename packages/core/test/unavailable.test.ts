import Fastify from 'fastify'
import { test } from 'tap'
import { defineUnavailableError, withRetryAfter } from '../src/index.js'

const ExampleUnavailableError = defineUnavailableError('FLOTILLA_EXAMPLE_ERR_UNAVAILABLE')

test('an unavailable error is coded, has its cause, and Fastify answers 503 with Retry-After', async (t) => {
  const cause = new Error('connect ECONNREFUSED')
  const app = Fastify()
  app.get('/', () => {
    throw new ExampleUnavailableError('example: the store cannot be reached (100%)', {
      retryAfterMs: 1_200,
      cause
    })
  })
  const response = await app.inject('/')
  t.equal(response.statusCode, 503)
  t.equal(response.headers['retry-after'], '2')
  t.match(response.json(), {
    code: 'FLOTILLA_EXAMPLE_ERR_UNAVAILABLE',
    message: 'example: the store cannot be reached (100%)'
  })
  const error = new ExampleUnavailableError('away', { retryAfterMs: 0, cause })
  t.ok(error instanceof ExampleUnavailableError)
  t.ok(error instanceof Error)
  t.equal(error.cause, cause)
  t.equal(error.headers['retry-after'], '1', 'never at once')
  t.notMatch(error.stack ?? '', /unavailable\.test/, 'a stack costs more than all the rest')
  t.notOk('cause' in new ExampleUnavailableError('away', { retryAfterMs: 1 }))
  await app.close()
})

test('any error can be given Retry-After', async (t) => {
  const error = new RangeError('full')
  t.equal(withRetryAfter(error, 5_000), error)
  t.same(withRetryAfter(error, 5_001).headers, { 'retry-after': '6' })
})
