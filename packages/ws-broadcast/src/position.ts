import type { Position } from './protocol.js'

/** Before the first message of a channel that has had none. */
export const START: Position = Object.freeze({ epoch: '', offset: '0-0' })

const OFFSET = /^\d{1,15}-\d{1,15}$/

export function isPosition(value: unknown): value is Position {
  if (typeof value !== 'object' || value === null) return false
  const { epoch, offset } = value as Record<string, unknown>
  return typeof epoch === 'string' && epoch.length <= 32 && typeof offset === 'string' && OFFSET.test(offset)
}

export function samePosition(a: Position, b: Position): boolean {
  return a.offset === b.offset && a.epoch === b.epoch
}

/** Orders two offsets of one channel: negative when `a` came first. */
export function compareOffsets(a: string, b: string): number {
  if (a === b) return 0
  const dashA = a.indexOf('-')
  const dashB = b.indexOf('-')
  return (
    Number(a.slice(0, dashA)) - Number(b.slice(0, dashB)) ||
    Number(a.slice(dashA + 1)) - Number(b.slice(dashB + 1))
  )
}
