import { until } from '@flotilla/testbed'
import type { Browser, Page } from 'playwright-core'
import { t as tap, test } from 'tap'
import { numberOf, openPage, startBrowser } from './browser.js'
import { startFleet, type Fleet } from './fleet.js'

let fleet: Fleet
let browser: Browser

tap.before(async () => {
  ;[fleet, browser] = await Promise.all([startFleet({ redis: 'sentinel', instances: 2 }), startBrowser()])
})
tap.teardown(async () => {
  await browser?.close()
  await fleet?.stop()
})

const press = (page: Page, name: string): Promise<void> => page.getByRole('button', { name }).click()
/** The replica on the map, with this said of it. */
const replica = (page: Page, says: RegExp) =>
  page.locator('#stores li', { hasText: 'PostgreSQL replica' }).filter({ hasText: says })

/** Presses a button and returns how the fleet answered. */
async function ask(page: Page, name: string): Promise<number> {
  const [response] = await Promise.all([page.waitForResponse(/\/api\/operator\//), press(page, name)])
  return response.status()
}

/** Writes an entry, again where the page says that it did not work, and returns what the page says of reading it. */
async function write(page: Page, text: string): Promise<string> {
  const note = page.locator('#post-note')
  await until(
    async () => {
      await page.locator('#body').fill(text)
      await page.locator('#body').press('Enter')
      await note.filter({ hasText: /\S/ }).waitFor()
      return (await note.innerText()).startsWith('Written')
    },
    { timeout: 30_000, message: `"${text}" is written` }
  )
  await page.locator('#feed li', { hasText: text }).first().waitFor()
  return note.innerText()
}

async function enter(): Promise<Page> {
  const { page } = await openPage(browser, fleet.url)
  await page.locator('#live[data-state="open"]').waitFor()
  await page.locator('#name').fill('Ada')
  await page.locator('#name').press('Enter')
  await page.locator('#post').waitFor()
  await page.locator('#live[data-state="open"]').waitFor()
  return page
}

test('a replica paused by its button is not read from by who wrote, and catches up', async (t) => {
  const page = await enter()
  t.equal(await ask(page, 'Pause the replica'), 202)
  const [standby] = fleet.postgres.replicas
  await until(
    async () => (await standby!.query('SELECT pg_is_wal_replay_paused() AS paused')).rows[0]?.['paused'],
    { message: 'its replay is paused' }
  )
  const fresh = await browser.newPage()
  await fresh.goto(fleet.url)
  await fresh.locator('[data-action="pause-replica"][aria-pressed="true"]').waitFor({ timeout: 15_000 })
  await fresh.close()
  const behind = await write(page, 'while the replica stands still')
  t.match(behind, 'read back at once from the primary')
  await replica(page, /lag \d+\.\d s/).waitFor({ timeout: 15_000 })
  t.equal(await ask(page, 'Pause the replica'), 202)
  await replica(page, /lag \d+ ms/).waitFor({ timeout: 15_000 })
  t.equal(await numberOf(page, 'stale'), 0)
  await page.close()
})

test('a fleet rolled by its button has new processes, and the page missed nothing', async (t) => {
  const page = await enter()
  const before = fleet.apps.instances.map(({ pid }) => pid)
  t.equal(await ask(page, 'Roll the fleet'), 202)
  t.equal(await ask(page, 'Roll the fleet'), 409, 'one roll at a time')
  await write(page, 'while the fleet rolls')
  await until(() => fleet.apps.instances.every(({ pid, running }, at) => running && pid !== before[at]), {
    timeout: 90_000,
    message: 'every instance is another process'
  })
  await page.locator('#instances li[data-state="ready"]').nth(1).waitFor({ timeout: 20_000 })
  await page.locator('#live[data-state="open"]').waitFor({ timeout: 20_000 })
  for (const count of ['failed', 'lost', 'stale']) {
    t.equal(await numberOf(page, count), 0, `${count}: ${await page.locator('#log').innerText()}`)
  }
  await page.close()
})

test('Redis fails over at the button, twice, and the killed master comes back as a replica', async (t) => {
  const sentinel = fleet.sentinel!
  const page = await enter()
  for (const turn of ['first', 'second']) {
    const old = await sentinel.master()
    t.equal(await ask(page, 'Fail Redis over'), 202, turn)
    await sentinel.waitForFailover(old)
    await until(
      async () => {
        const { role, master_link_status: link } = await old.info('replication')
        return role === 'slave' && link === 'up'
      },
      { timeout: 30_000, message: `the ${turn} master is a replica that is linked` }
    )
    t.equal((await sentinel.replicas()).length, 2, turn)
    await write(page, `after the ${turn} failover`)
  }
  t.equal(await numberOf(page, 'stale'), 0)
  await page.close()
})
