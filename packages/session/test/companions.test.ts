import { fastifyCsrfProtection } from '@fastify/csrf-protection'
import fastifyFlash from '@fastify/flash'
import { Authenticator, Strategy } from '@fastify/passport'
import { startRedis } from '@flotilla/testbed'
import type { FastifyRequest } from 'fastify'
import { after, before, test } from 'tap'
import { buildApp } from './support/app.js'
import { serve } from './support/serve.js'

let redis: Awaited<ReturnType<typeof startRedis>>
before(async () => {
  redis = await startRedis()
})
after(() => redis.stop())

/** Anybody is who they say they are. */
class Trusting extends Strategy {
  override authenticate(request: FastifyRequest): void {
    const { name } = request.body as { name?: string }
    if (name) this.success({ name })
    else this.fail('who?')
  }
}

test('@fastify/passport: log in, be recognised, log out', async (t) => {
  for (const clearSessionOnLogin of [true, false]) {
    const passport = new Authenticator({ clearSessionOnLogin })
    passport.use('trusting', new Trusting('trusting'))
    passport.registerUserSerializer(async (user: { name: string }) => user.name)
    passport.registerUserDeserializer(async (name: string) => ({ name }))
    const app = await buildApp({ url: redis.url, session: { prefix: `passport-${clearSessionOnLogin}:` } })
    await app.register(passport.initialize())
    await app.register(passport.secureSession())
    app.post(
      '/passport/login',
      { preValidation: passport.authenticate('trusting', { authInfo: false }) },
      async (request) => request.user
    )
    app.post('/passport/keep', async (request) => {
      await request.logIn({ name: 'kept' } as never, { keepSessionInfo: true } as never)
      return request.session.data
    })
    app.get('/passport/me', async (request) => request.user ?? {})
    app.post('/passport/logout', async (request) => {
      await request.logOut()
      return {}
    })
    const { browser } = await serve(t, app)
    const visitor = browser()
    await visitor.post('/set', { count: 1 })
    const before = visitor.clone()
    t.equal((await visitor.post('/passport/login', {})).status, 401)
    t.same((await visitor.post('/passport/login', { name: 'ada' })).body, { name: 'ada' })
    t.not(visitor.cookie, before.cookie, 'a new id')
    t.same((await before.get('/data')).body, {}, 'the old one is dead')
    t.same((await visitor.get('/passport/me')).body, { name: 'ada' })
    t.same((await visitor.get('/get/passport')).body, { value: 'ada' })
    const replay = visitor.clone()
    await visitor.post('/set', { count: 3 })
    await visitor.post('/passport/logout')
    t.same((await visitor.get('/passport/me')).body, {})
    t.same((await replay.get('/passport/me')).body, {}, 'a logout is final')
    // With `clearSessionOnLogin: false` too: passport looks for it in `session.data()`, which is @fastify/secure-session's.
    t.same((await visitor.get('/data')).body, {}, 'a logout drops the data')
    await visitor.post('/set', { count: 2 })
    // Without clearing, it looks for the data of @fastify/secure-session and finds none, as with @fastify/session.
    const kept = clearSessionOnLogin ? { count: 2, passport: 'kept' } : { passport: 'kept' }
    t.same((await visitor.post('/passport/keep')).body, kept)
  }
})

test('@fastify/csrf-protection, in both of its session modes', async (t) => {
  for (const sessionPlugin of ['@fastify/session', '@fastify/secure-session'] as const) {
    const app = await buildApp({ url: redis.url })
    await app.register(fastifyCsrfProtection, { sessionPlugin } as Parameters<
      typeof fastifyCsrfProtection
    >[1])
    app.get('/csrf', async (_request, reply) => ({ token: reply.generateCsrf() }))
    app.post('/csrf', { onRequest: app.csrfProtection }, async () => ({ ok: true }))
    const { url, browser } = await serve(t, app)
    const visitor = browser()
    const { token } = (await visitor.get('/csrf')).body
    const post = (cookie: string, value: string): Promise<Response> =>
      fetch(`${url}/csrf`, { method: 'POST', headers: { cookie, 'x-csrf-token': value } })
    t.equal((await post(visitor.cookie, String(token))).status, 200)
    t.equal((await post(visitor.cookie, 'forged')).status, 403)
    const other = browser()
    await other.get('/csrf')
    t.equal((await post(other.cookie, String(token))).status, 403, "another visitor's token")
    t.equal((await post('', String(token))).status, 403)
  }
})

test('@fastify/flash: a message is shown once', async (t) => {
  const app = await buildApp({ url: redis.url })
  await app.register(fastifyFlash)
  app.post('/flash', async (request) => {
    const flash = request as unknown as { flash(type: string, ...message: string[]): number }
    flash.flash('info', 'saved')
    return { count: flash.flash('info', 'and %s', 'more') }
  })
  app.get('/flash', async (_request, reply) =>
    (reply as unknown as { flash(type: string): string[] }).flash('info')
  )
  const { browser } = await serve(t, app)
  const visitor = browser()
  t.same((await visitor.post('/flash')).body, { count: 2 })
  t.same((await visitor.get('/flash')).body, ['saved', 'and more'])
  t.same((await visitor.get('/flash')).body, [])
})
