import type pg from 'pg'
import type { Duration } from '@flotilla/core'
import type { Statement } from './router-client.js'

/** A statement with limits of its own. */
export interface QueryOptions {
  /** Until the statement is cancelled, on the server too. Default: the option `timeout`. */
  timeout?: Duration
  /** Cancels the statement, on the server too. */
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

/** The statement in the driver's form. */
export function toStatement(input: string | object, values?: readonly unknown[]): Statement {
  if (typeof input === 'string') return values ? { text: input, values: values as never } : { text: input }
  return (values ? { ...input, values } : input) as Statement
}
