import { format, parse } from '@lukeed/ms'

/** Milliseconds, or a string such as `'250ms'`, `'30s'`, `'15m'`, `'24h'`, `'7d'`. */
export type Duration = number | string

/**
 * Milliseconds of a {@link Duration}, or `undefined` if it is not one: not finite, negative, or not
 * readable. A string of digits alone is refused, since its unit would be a guess.
 */
export function parseDuration(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) && value >= 0 ? value : undefined
  if (typeof value !== 'string' || !/[a-z]/i.test(value)) return undefined
  const ms = parse(value.trim())
  return ms !== undefined && Number.isFinite(ms) && ms >= 0 ? ms : undefined
}

/** A duration in milliseconds as a person writes it: `90000` gives `'2m'`. */
export function formatDuration(ms: number): string {
  return format(ms)
}
