import { QueryTypes, Sequelize } from 'sequelize'
import { POOL, READ, READ_BACK, WRITE, type Addresses, type Database } from './serve.js'

/** Its `replication` option, and plain SQL: models would cost more. */
export async function sequelize({ primary, replicas }: Addresses): Promise<Database> {
  const server = (
    url: string
  ): { host: string; port: string; username: string; password: string; database: string } => {
    const { hostname, port, username, password, pathname } = new URL(url)
    return {
      host: hostname,
      port,
      username: decodeURIComponent(username),
      password: decodeURIComponent(password),
      database: pathname.slice(1)
    }
  }
  const db = new Sequelize({
    dialect: 'postgres',
    logging: false,
    replication: { write: server(primary), read: replicas.map(server) },
    pool: { max: POOL, min: 0 }
  })
  const select = async (text: string, id: number, options: object = {}): Promise<object | undefined> =>
    (await db.query<object>(text, { bind: [id], type: QueryTypes.SELECT, ...options }))[0]
  // Of type SELECT it would go to a replica; it gives the rows all the same.
  const write = async (id: number, options: object = {}): Promise<number> =>
    ((await select(WRITE, id, { useMaster: true, ...options })) as { n: number }).n
  return {
    read: (id) => select(READ, id) as Promise<{ id: number; body: string } | undefined>,
    write,
    async readAfterWrite(id) {
      const wrote = await write(id)
      return { wrote, read: ((await select(READ_BACK, id, { useMaster: true })) as { n: number }).n }
    },
    transaction: (id) =>
      db.transaction(async (transaction) => {
        await write(id, { transaction })
        return ((await select(READ_BACK, id, { transaction })) as { n: number }).n
      }),
    close: () => db.close()
  }
}
