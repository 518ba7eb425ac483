const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
const TIME = String.raw`(?<hour>\d\d):(?<minute>\d\d):(?<second>\d\d)`
/** The three forms of RFC 9110 §5.6.7: as it is written today, of RFC 850, of C's asctime. */
const FORMS = [
  String.raw`(?:mon|tue|wed|thu|fri|sat|sun), (?<day>\d\d) (?<month>[a-z]{3}) (?<year>\d{4}) ${TIME} gmt`,
  String.raw`(?:mon|tues|wednes|thurs|fri|satur|sun)day, (?<day>\d\d)-(?<month>[a-z]{3})-(?<year>\d\d) ${TIME} gmt`,
  String.raw`(?:mon|tue|wed|thu|fri|sat|sun) (?<month>[a-z]{3}) (?<day>[ \d]\d) ${TIME} (?<year>\d{4})`
].map((form) => new RegExp(`^${form}$`, 'i'))

/**
 * Milliseconds since the epoch of an HTTP-date; `undefined` for anything else. `Date.parse` would take "2030" and ISO
 * dates for dates too, and read asctime's form in the local time zone (RFC 9111 §4.2: it must not matter).
 */
export function parseHttpDate(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  for (const form of FORMS) {
    const { day, month, year, hour, minute, second } = form.exec(text.trim())?.groups ?? {}
    if (day === undefined) continue
    const index = MONTHS.indexOf(month!.toLowerCase())
    const time = Date.UTC(fullYear(year!), index, Number(day), Number(hour), Number(minute), Number(second))
    const real = index >= 0 && new Date(time).getUTCDate() === Number(day) && Number(hour) < 24
    return real && Number(minute) < 60 && Number(second) <= 60 ? time : undefined
  }
  return undefined
}

/** A year of two digits that seems more than 50 years ahead is the latest such year in the past (RFC 9110 §5.6.7). */
function fullYear(year: string): number {
  if (year.length === 4) return Number(year)
  const now = new Date().getUTCFullYear()
  const guess = now - (now % 100) + Number(year)
  return guess > now + 50 ? guess - 100 : guess
}
