import { findProgram } from '@flotilla/testbed'
import { chromium, type Browser, type Page } from 'playwright-core'

/** The Chromium of the distribution. */
export async function startBrowser(): Promise<Browser> {
  const program = await findProgram('chromium')
  return chromium.launch({
    executablePath: program.path,
    args: ['--no-sandbox'],
    env: { ...(process.env as Record<string, string>), ...program.env }
  })
}

/** The demo's page, with all that its scripts complained of. */
export async function openPage(
  browser: Browser,
  url: string,
  viewport = { width: 1200, height: 900 }
): Promise<{ page: Page; troubles: string[] }> {
  const page = await browser.newPage({ viewport })
  const troubles: string[] = []
  page.on('pageerror', (error) => troubles.push(error.message))
  page.on('console', (message) => message.type() === 'error' && troubles.push(message.text()))
  await page.goto(url)
  return { page, troubles }
}

/** One of the page's counters. */
export async function numberOf(page: Page, id: string): Promise<number> {
  return Number((await page.locator(`#n-${id}`).innerText()).replace(/,/g, ''))
}
