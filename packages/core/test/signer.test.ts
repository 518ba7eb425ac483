import { randomBytes } from 'node:crypto'
import { test } from 'tap'
import { createSigner } from '../src/index.js'

const secret = 'a secret that is long enough to be one'

test('what was signed is read back', async (t) => {
  const signer = createSigner(secret, 'test')
  for (const value of ['', 'abc', 'a.b.c', 'ünïcode', 'x'.repeat(5000)]) {
    t.same(signer.verify(signer.sign(value)), { value, renew: false })
  }
})

test('nothing else is accepted', async (t) => {
  const signer = createSigner(secret, 'test')
  const signed = signer.sign('value')
  const flip = (at: number) => signed.slice(0, at) + (signed[at] === 'A' ? 'B' : 'A') + signed.slice(at + 1)
  for (let at = 0; at < signed.length; at++)
    t.equal(signer.verify(flip(at)), undefined, `character ${at} changed`)
  for (const bad of ['', '.', 'value', signed.slice(1), signed.slice(0, -1), `${signed}A`, `${signed} `]) {
    t.equal(signer.verify(bad), undefined)
  }
  for (let round = 0; round < 2000; round++) {
    t.equal(signer.verify(randomBytes(round % 120).toString('latin1')), undefined)
  }
})

test('only one spelling of a MAC is accepted', async (t) => {
  const signer = createSigner(secret, 'test')
  const signed = signer.sign('value')
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  const accepted = alphabet.split('').filter((last) => signer.verify(signed.slice(0, -1) + last))
  t.same(accepted, [signed.at(-1)])
})

test('an older secret verifies and asks for renewal; a dropped one does not verify', async (t) => {
  const old = createSigner('the old secret, long enough to count', 'test').sign('value')
  const both = createSigner([secret, 'the old secret, long enough to count'], 'test')
  t.same(both.verify(old), { value: 'value', renew: true })
  t.same(both.verify(both.sign('value')), { value: 'value', renew: false })
  t.equal(createSigner(secret, 'test').verify(old), undefined)
})

test('a value signed for one purpose is worthless for another', async (t) => {
  t.equal(createSigner(secret, 'session').verify(createSigner(secret, 'db').sign('value')), undefined)
})
