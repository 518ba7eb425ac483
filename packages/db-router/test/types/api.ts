// Checked by tsc alone: what must compile, and what must not.
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Pool, QueryArrayResult, QueryResult } from 'pg'
import flotillaDbRouter, {
  type ConsistencyToken,
  type Database,
  type DatabaseStatus,
  type DbRouterOptions
} from '../../src/index.js'

declare const app: FastifyInstance
declare const request: FastifyRequest

await app.register(flotillaDbRouter, { primary: 'postgres://a/b' })
await app.register(flotillaDbRouter, {
  primary: [{ host: 'a' }],
  replicas: ['postgres://c/d'],
  carrier: 'redis',
  redis: 'main',
  maxLag: '5s'
})
// @ts-expect-error the primary is needed
await app.register(flotillaDbRouter, {})
// @ts-expect-error no such carrier
const options: DbRouterOptions = { primary: '', carrier: 'pigeon' }
void options

const database: Database = app.db
const ofRequest: Database = request.db
const pool: Pool = database.write.pool
const status: DatabaseStatus = ofRequest.status()
const token: ConsistencyToken | undefined = ofRequest.token()
void [pool, status]

const rows: QueryResult<{ id: number }> = await database.read.query<{ id: number }>('select 1', [1], {
  timeout: '1s'
})
const arrays: QueryArrayResult<[number]> = await database.read.query<[number]>({
  text: 'select 1',
  rowMode: 'array'
})
const after: QueryResult = await database.read
  .after(token)
  .query({ text: 'select 1', values: [1], name: 'one' })
void [rows.rows[0]?.id.toFixed(), arrays.rows[0]?.[0].toFixed(), after.rowCount]

const result: number = await database.transaction(
  async (tx) => (await tx.query<{ n: number }>('select 1')).rows[0]!.n,
  {
    isolation: 'repeatable read',
    readOnly: true
  }
)
void result
// @ts-expect-error no such level
void database.transaction(async () => 1, { isolation: 'high' })
// @ts-expect-error values are a list
void database.query('select 1', { a: 1 })
