import type pg from 'pg'
import { parseDuration, type Duration } from '@flotilla/core'
import { OptionError } from './errors.js'
import type { StatementOptions } from './router.js'
import type { Statement } from './router-client.js'

/** A statement with limits of its own. */
export interface QueryOptions {
  /**
   * Until the statement is cancelled, on the server too. The wait for a connection counts; what comes before it does not:
   * that for a replica (`maxWait`), a turn (`fallback.wait`) or a primary (`primaryWait`). Default: the option `timeout`.
   */
  timeout?: Duration
  /**
   * Cancels the statement, on the server too, or what it waits for: `AbortSignal.timeout(ms)` bounds the whole call.
   */
  signal?: AbortSignal
}

/** As `pg` takes statements: text and values, or an object, which may carry {@link QueryOptions}. */
export interface QueryFunction {
  <Row extends pg.QueryResultRow = pg.QueryResultRow>(
    text: string,
    values?: readonly unknown[],
    options?: QueryOptions
  ): Promise<pg.QueryResult<Row>>
  <Row extends unknown[] = unknown[]>(
    statement: { text: string; values?: readonly unknown[]; rowMode: 'array' } & QueryOptions
  ): Promise<pg.QueryArrayResult<Row>>
  <Row extends pg.QueryResultRow = pg.QueryResultRow>(
    statement: {
      text: string
      values?: readonly unknown[]
      name?: string
      types?: pg.CustomTypesConfig
    } & QueryOptions
  ): Promise<pg.QueryResult<Row>>
}

/** Whether there is nothing to run, such as from a variable that was never set. */
export const isNoQuery = (input: unknown): input is null | undefined => input === undefined || input === null

/** What the driver answers to that. */
export const noQuery = (): Promise<never> =>
  Promise.reject(new TypeError('Client was passed a null or undefined query'))

/** The statement in the driver's form. */
export function toStatement(input: string | object, values?: readonly unknown[]): Statement {
  if (typeof input === 'string') return values ? { text: input, values: values as never } : { text: input }
  return (values ? { ...input, values } : input) as Statement
}

/**
 * What bounds a statement: its own limits over `limits`, which is returned itself where it has none.
 *
 * @throws {OptionError} where its `timeout` is no duration
 */
export function limitsOf(
  input: string | object,
  options: QueryOptions | undefined,
  limits: StatementOptions
): StatementOptions {
  if (typeof input === 'string' && options === undefined) return limits
  const { timeout, signal } =
    typeof input === 'object' ? { ...(input as QueryOptions), ...options } : options!
  if (timeout === undefined && signal === undefined) return limits
  return { timeout: durationOf(timeout, limits.timeout), signal }
}

/** A duration in milliseconds. */
export function durationOf(value: QueryOptions['timeout'], fallback: number): number {
  if (value === undefined) return fallback
  const ms = parseDuration(value)
  if (ms === undefined || ms > 2_147_483_647) {
    throw new OptionError(
      `@flotilla/db-router: 'timeout' must be a duration such as '2s', got ${String(value)}`
    )
  }
  return ms
}
