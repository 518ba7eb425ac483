import { DataSource } from 'typeorm'
import { POOL, READ, READ_BACK, WRITE, type Addresses, type Database } from './serve.js'

/** Its `replication` option, and plain SQL: repositories would cost more. */
export async function typeorm({ primary, replicas }: Addresses): Promise<Database> {
  const source = new DataSource({
    type: 'postgres',
    replication: { master: { url: primary }, slaves: replicas.map((url) => ({ url })) },
    extra: { max: POOL }
  })
  await source.initialize()
  const ask = async <Row>(mode: 'master' | 'slave', text: string, id: number): Promise<Row[]> => {
    const runner = source.createQueryRunner(mode)
    try {
      return (await runner.query(text, [id])) as Row[]
    } finally {
      await runner.release()
    }
  }
  // An UPDATE … RETURNING comes back as [rows, count].
  const write = async (id: number): Promise<number> =>
    ((await ask('master', WRITE, id)) as unknown as [{ n: number }[]])[0][0]!.n
  return {
    read: async (id) => (await ask<{ id: number; body: string }>('slave', READ, id))[0],
    write,
    async readAfterWrite(id) {
      const wrote = await write(id)
      return { wrote, read: (await ask<{ n: number }>('master', READ_BACK, id))[0]!.n }
    },
    transaction: (id) =>
      source.transaction(async (manager) => {
        await manager.query(WRITE, [id])
        return (await manager.query<{ n: number }[]>(READ_BACK, [id]))[0]!.n
      }),
    close: () => source.destroy()
  }
}
