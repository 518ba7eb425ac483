import { until } from '@flotilla/testbed'
import type { Browser } from 'playwright-core'
import { t as tap, test } from 'tap'
import { Visitor } from '../src/check/visitor.js'
import { numberOf, openPage, startBrowser } from './browser.js'
import { startFleet, type Fleet } from './fleet.js'

let fleet: Fleet
let browser: Browser

tap.before(async () => {
  ;[fleet, browser] = await Promise.all([startFleet(), startBrowser()])
})
tap.teardown(async () => {
  await browser?.close()
  await fleet?.stop()
})

test('log in, write, and see it live, by keyboard alone', async (t) => {
  const { page, troubles } = await openPage(browser, fleet.url)
  await page.locator('#live[data-state="open"]').waitFor()
  await page.locator('#name').focus()
  await page.keyboard.type('Ada')
  await page.keyboard.press('Enter')
  await page.locator('#post').waitFor()
  await page.waitForFunction(() => document.activeElement?.id === 'body')
  await page.keyboard.type('<b>hello</b> from a browser')
  await page.keyboard.press('Enter')
  const entry = page.locator('#feed li').first()
  await entry.waitFor()
  t.match(await entry.innerText(), /^Ada <b>hello<\/b> from a browser/, 'text stays text')
  await page.locator('#post-note', { hasText: 'read back at once from the' }).waitFor()

  const other = new Visitor()
  await other.login(fleet.url, 'Bob')
  await other.must(fleet.url, '/api/posts', { method: 'POST', body: { body: 'from elsewhere' }, status: 201 })
  await page.locator('#feed li', { hasText: 'from elsewhere' }).waitFor()
  await page.locator('#present', { hasText: 'Ada' }).waitFor()
  await page.locator('#ranking li', { hasText: 'Bob' }).waitFor()
  await until(async () => (await page.locator('#instances li[data-state="ready"]').count()) === 3, {
    timeout: 25_000,
    message: 'the page shows three instances that are ready'
  })
  t.equal(await page.locator('#stores li').count(), 3)
  t.same(troubles, [])
  await page.close()
})

test('an entry whose answer was lost is sent again, and is still one entry and one message', async (t) => {
  const { page } = await openPage(browser, fleet.url)
  await page.locator('#live[data-state="open"]').waitFor()
  await page.locator('#name').fill('Eve')
  await page.keyboard.press('Enter')
  await page.locator('#post').waitFor()
  // The write arrives; its answer does not: the balancer's own error page comes in its place.
  let lost = false
  await page.route('**/api/posts', async (route) => {
    // The feed is read there too.
    if (lost || route.request().method() !== 'POST') return route.fallback()
    lost = true
    await route.fetch()
    await route.fulfill({ status: 502, contentType: 'text/html', body: '<html>Bad Gateway</html>' })
  })
  await page.locator('#body').fill('only once')
  await page.keyboard.press('Enter')
  const note = page.locator('#post-note')
  await note.filter({ hasText: 'the balancer answered 502' }).waitFor()
  await page.keyboard.press('Enter')
  await note.filter({ hasText: 'read back at once from the' }).waitFor()
  t.equal(await page.locator('#feed li', { hasText: 'only once' }).count(), 1)
  await until(async () => (await numberOf(page, 'messages')) > 0, { message: 'the news of it has come' })
  t.equal(await numberOf(page, 'messages'), 1, 'and once')
  await page.close()
})

test('a map that nobody answers for says so', async (t) => {
  const { page } = await openPage(browser, fleet.url)
  await page.locator('#instances li').first().waitFor()
  await page.route('**/api/fleet', (route) => route.abort())
  await page.locator('#map-note', { hasText: /^No answer about the fleet: this is how it was at / }).waitFor()
  t.ok(await page.locator('#map.old').count())
  await page.unroute('**/api/fleet')
  await page.locator('#map:not(.old)').waitFor()
  t.equal(await page.locator('#map-note').textContent(), '')
  await page.close()
})

test('an instance killed by its button goes and comes back, and nothing is lost', async (t) => {
  const { page } = await openPage(browser, fleet.url)
  await page.locator('#live[data-state="open"]').waitFor()
  await page.getByRole('button', { name: 'Kill app-2' }).click()
  await page.locator('#instances li[data-name="app-2"][data-state="gone"]').waitFor({ timeout: 20_000 })
  await page.locator('#instances li[data-name="app-2"][data-state="ready"]').waitFor({ timeout: 30_000 })
  for (const count of ['failed', 'lost', 'stale']) {
    t.equal(await numberOf(page, count), 0, `${count}: ${await page.locator('#log').innerText()}`)
  }
  await page.close()
})

test('a kill that its victim passes on is answered before the victim goes', async (t) => {
  const [instance] = fleet.apps.instances
  if (!instance) throw new Error('no instance was started')
  const { pid } = instance
  const response = await fetch(`${instance.url}/api/operator/kill?instance=app-1`, { method: 'POST' })
  t.same([response.status, await response.json()], [202, { started: 'kill' }])
  await until(() => instance.running && instance.pid !== pid, { timeout: 30_000, message: 'another process' })
  await until(async () => (await fetch(`${instance.url}/health/live`)).ok, {
    timeout: 30_000,
    message: 'it answers'
  })
  const unknown = await fetch(`${fleet.url}/api/operator/none`, { method: 'POST' })
  t.equal(unknown.status, 404)
})

test('Redis cut off by its button shows as away, and is back at the next press', async (t) => {
  const { page } = await openPage(browser, fleet.url)
  const redis = page.locator('#stores li[data-name="redis"]')
  const button = page.getByRole('button', { name: 'Cut Redis' })
  await page.locator('#live[data-state="open"]').waitFor()
  await button.click()
  await redis.and(page.locator('[data-state="down"]')).waitFor({ timeout: 10_000 })
  t.equal(await button.getAttribute('aria-pressed'), 'true')
  await button.click()
  await redis.and(page.locator('[data-state="ready"]')).waitFor({ timeout: 20_000 })
  await page.locator('#live[data-state="open"]').waitFor({ timeout: 20_000 })
  t.equal(await numberOf(page, 'lost'), 0)
  await page.close()
})

test('it fits a phone, and says everything to a screen reader', async (t) => {
  const { page } = await openPage(browser, fleet.url, { width: 360, height: 780 })
  await page.emulateMedia({ colorScheme: 'dark', reducedMotion: 'reduce' })
  await page.locator('#instances li').first().waitFor()
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)
  t.ok(wide <= 0, `nothing is wider than the screen (${wide} px)`)
  const unnamed = await page.evaluate(() =>
    Array.from(document.querySelectorAll('button, input, ol, ul, section'))
      .filter((element) => {
        const label = element.getAttribute('aria-label') ?? element.getAttribute('aria-labelledby')
        const field = element.id && document.querySelector(`label[for="${element.id}"]`)
        const list = element.matches('ol, ul') && element.closest('section[aria-labelledby]')
        return !label && !field && !list && element.textContent?.trim() === ''
      })
      .map((element) => element.outerHTML.slice(0, 80))
  )
  t.same(unnamed, [])
  const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor)
  t.not(dark, 'rgb(243, 245, 247)', 'dark mode has its own page')
  await page.close()
})
