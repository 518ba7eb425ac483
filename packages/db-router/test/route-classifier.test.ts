import t from 'tap'
import { createRouteClassifier, isPureRead } from '../src/route-classifier.js'

const reads = [
  'select 1',
  'SELECT id, name FROM users WHERE id = $1',
  'select * from users u left join posts p on p.author = u.id where u.name ilike $1 order by p.id desc limit 10 offset 20;',
  'select count(*), max(created_at) from posts group by author having count(*) > 3',
  "with recent as (select * from posts where created_at > now() - interval '1 day') select * from recent",
  'with recursive tree(id) as (select 1 union all select id + 1 from tree where id < 5) select id from tree',
  'values (1, 2), (3, 4)',
  'table users',
  'select /* update */ 1 -- delete from users',
  "select 'insert into users; delete' as text, $$ for update $$ as more",
  'select "update" from "insert"',
  "select id::text, cast(id as varchar(20)), data->>'name' from docs where data @> $1::jsonb",
  'select exists (select 1 from users where id in (1, 2, 3))',
  "select case when lower(name) = 'a' then 'x' else 'y' end from users",
  'select sum(x) over (partition by y order by z) from t',
  'select sum(x) filter (where y > 1) from t',
  'select percentile_cont(0.5) within group (order by x) from t',
  'select a, count(*) from t group by grouping sets ((a), ())',
  'with x as materialized (select 1) select * from x inner join (select 2) y on (true)',
  'select pg_catalog.lower(name) from users',
  "select coalesce(a, b) from t where d between date '2020-01-01' and $2",
  'select (array[1, 2, 3])[1:2]'
]

const others = [
  '',
  'insert into users values (1)',
  'update users set a = 1',
  'delete from users',
  'select 1; delete from users',
  'select 1;; select 2',
  'select * from users for update',
  'select * from users for key share of users skip locked',
  'select * into copy from users',
  "select nextval('ids')",
  'select pg_advisory_lock(1)',
  'select pg_sleep(1)',
  "select set_config('a', 'b', false)",
  'select my_function(1)',
  'select public.lower(name) from users',
  'select "lower"(name) from users',
  'select * from my_rows() as r',
  'with gone as (delete from users returning *) select * from gone',
  'with new as (insert into users values (1) returning id) table new',
  'explain analyze delete from users',
  'begin',
  'call work()',
  'select 1 operator(public.+) 2',
  'select 1 === 2',
  'select x::my_type from t',
  'select cast(x as my_type) from t',
  "select my_type 'text'",
  "select E'\\'' , pg_sleep(1) --'",
  "select '\\', evil(1) --'",
  "select U&'d' , 1",
  "select 'open",
  'select /* open',
  'select /* a /* b */ evil() */ , evil() /* */',
  'select $tag$ open',
  'lock table users',
  'copy users to stdout',
  'select 1 \0',
  // Names that only the grammar's other places make harmless.
  'select filter(1)',
  'select by(1)',
  'select over(1)',
  'select partition(1)',
  'select sets(1)',
  'select cube(1)',
  'select rollup(1)',
  'select within(1)',
  'select materialized(1)',
  'select not materialized(1)',
  'select join(1)',
  "select like('a', 'b')",
  'select is(1)',
  // A schema with the name of a type, and names that only look like known ones.
  'select 1::text.evil',
  'select cast(1 as text.evil)',
  'select lower\u00a0(name) from users',
  'select ran\u212a() over () from users'
]

t.test('reads go to a replica', async (sub) => {
  for (const text of reads) sub.equal(isPureRead(text), true, text)
})

t.test('whatever is not surely a read does not', async (sub) => {
  for (const text of others) sub.equal(isPureRead(text), false, text)
})

t.test('no way to join a read and a write passes', async (sub) => {
  const glue = ['; ', ' ', '\n', ' /* */ ', ' -- \n', ", (select 'x') ; ", ' as a; ']
  for (const read of reads) {
    for (const write of [
      'delete from users',
      'update users set a = 1',
      'select evil(1)',
      'select 1 for update'
    ]) {
      for (const between of glue) {
        const text = read.replace(/;$/, '') + between + write
        // A line comment at the read's end rightly hides what follows on its line.
        if (/--[^\n]*$/.test(read) && !between.includes('\n')) continue
        sub.notOk(isPureRead(text), text)
      }
    }
  }
})

t.test('a refused statement is remembered, and memory is bounded', async (sub) => {
  const classifier = createRouteClassifier()
  sub.equal(classifier.isPureRead('select * from sneaky_view'), true)
  classifier.remember('select * from sneaky_view')
  sub.equal(classifier.isPureRead('select * from sneaky_view'), false)
  for (let n = 0; n < 5_000; n++) sub.ok(classifier.isPureRead(`select ${n}`) || n)
})
