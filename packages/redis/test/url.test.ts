import type { Redis } from 'ioredis'
import { test } from 'tap'
import { createClient } from '../src/client.js'
import { readOptions } from '../src/options.js'
import { formatTarget, parseRedisUrl } from '../src/topology.js'

void test('URLs of each topology', async (t) => {
  t.match(parseRedisUrl('redis://localhost'), {
    topology: 'single',
    nodes: [{ host: 'localhost', port: 6379 }],
    tls: false,
    username: undefined,
    password: undefined,
    db: undefined
  })
  t.match(parseRedisUrl('rediss://app:p%40ss%2F@db.example:6390/3'), {
    nodes: [{ host: 'db.example', port: 6390 }],
    tls: true,
    username: 'app',
    password: 'p@ss/',
    db: 3
  })
  t.match(parseRedisUrl('redis://:secret@[::1]:7000?db=2'), {
    nodes: [{ host: '::1', port: 7000 }],
    username: undefined,
    password: 'secret',
    db: 2
  })
  t.match(parseRedisUrl('redis+sentinel://:pw@h1,h2:26380/mymaster/1'), {
    topology: 'sentinel',
    nodes: [
      { host: 'h1', port: 26379 },
      { host: 'h2', port: 26380 }
    ],
    master: 'mymaster',
    password: 'pw',
    db: 1
  })
  t.match(parseRedisUrl('rediss+cluster://h1:7000,h2:7001'), {
    topology: 'cluster',
    nodes: [
      { host: 'h1', port: 7000 },
      { host: 'h2', port: 7001 }
    ],
    tls: true
  })
  t.match(parseRedisUrl('redis://h1:7000', true), {
    topology: 'cluster',
    nodes: [{ host: 'h1', port: 7000 }]
  })
})

void test("Valkey's schemes mean what those of Redis mean", (t) => {
  for (const rest of ['://u:p@h:7000/2', 's://h', '+sentinel://h1,h2/m/1', 's+cluster://h1,h2']) {
    t.same(parseRedisUrl(`valkey${rest}`), parseRedisUrl(`redis${rest}`), rest)
  }
  t.end()
})

void test('a Unix socket', (t) => {
  t.match(parseRedisUrl('unix:///run/redis%20one/redis.sock'), {
    topology: 'single',
    nodes: [],
    socketPath: '/run/redis one/redis.sock',
    tls: false,
    password: undefined,
    db: undefined
  })
  t.match(parseRedisUrl('unix://app:p%40ss@/redis.sock?db=3'), {
    socketPath: '/redis.sock',
    username: 'app',
    password: 'p@ss',
    db: 3
  })
  t.equal(formatTarget(parseRedisUrl('unix://:pw@/redis.sock')), '/redis.sock')
  t.equal(formatTarget(parseRedisUrl('redis+sentinel://h1,[::1]:5/m')), 'h1:26379,[::1]:5')
  t.end()
})

void test('what is malformed is said, without the password', async (t) => {
  const cases: [url: string, reason: RegExp, cluster?: boolean][] = [
    ['localhost:6379', /begins with/],
    ['http://localhost', /begins with/],
    ['redis://', /host is missing/],
    ['redis://h:99999', /not host:port/],
    ['redis://h:port', /not host:port/],
    ['redis://a b', /not host:port/],
    ['redis://u:sec/ret@h', /percent-encoded/],
    ['redis://default:sec+r/et=@db', /percent-encoded/],
    ['redis://u:12/sec@h', /percent-encoded/],
    ['redis://u:12/0?sec@h', /percent-encoded/],
    ['redis+sentinel://u:12/sec/ret@h/m', /percent-encoded/],
    ['redis://u:sec@ret@h', /percent-encoded/],
    ['redis://u:sec', /not host:port/],
    ['redis://h/sec', /number of a database/],
    ['redis://u:%zz@h', /percent-encoded/],
    ['redis://h1,h2', /several hosts/],
    ['redis://h/x', /number of a database/],
    ['redis://h/1/2', /number of a database/],
    ['redis://h?tls=true', /unknown parameter 'tls'/],
    ['redis+sentinel://h', /name of the master/],
    ['redis+sentinel://h/m', /contradicts/, true],
    ['valkey://h1,h2', /several hosts/],
    ['unix://h/redis.sock', /absolute path/],
    ['unix://u:sec/ret@/redis.sock', /percent-encoded/],
    ['unix://', /absolute path/],
    ['unix:///', /absolute path/],
    ['unix:///run/%zz', /percent-encoded/],
    ['unix:///redis.sock?db=x', /number of a database/],
    ['unix:///redis.sock', /contradicts/, true],
    ['unixs:///redis.sock', /begins with/],
    ['redis+sentinel://h/%zz', /percent-encoded/],
    ['redis+cluster://h/1', /database 0 only/]
  ]
  for (const [url, reason, cluster] of cases) {
    t.throws(() => parseRedisUrl(url, cluster), { message: reason }, url)
    try {
      parseRedisUrl(url, cluster)
    } catch (error) {
      t.notMatch((error as Error).message, /sec|ret|zz/)
    }
  }
})

void test('the CA holds for the Sentinels as well, unless they have one of their own', async (t) => {
  const url = 'rediss+sentinel://h/m'
  const sentinelTls = (options: object): unknown => {
    const settings = readOptions({ url, ...options })
    return (createClient(settings.target!, settings) as Redis).options.sentinelTLS
  }
  t.same(sentinelTls({}), {})
  t.same(sentinelTls({ tls: { ca: 'ours' } }), { ca: 'ours' })
  t.same(sentinelTls({ tls: { ca: 'ours' }, sentinelTLS: { ca: 'theirs' } }), { ca: 'theirs' })
})
