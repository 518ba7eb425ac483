// What may stand in a statement that provably only reads. PostgreSQL's own functions that neither write, lock, sleep,
// nor depend on the session; pg_catalog is searched first, so a user's function of the same name and arguments does
// not take their place.

const words = (text: string): ReadonlySet<string> => new Set(text.trim().split(/\s+/))

/** Functions and function-like constructs that may be called. */
export const pureFunctions = words(`
  abs ceil ceiling floor round trunc sign sqrt cbrt exp ln log log10 power mod div gcd lcm width_bucket degrees radians pi
  sin cos tan asin acos atan atan2 random
  count sum avg min max bool_and bool_or every stddev stddev_pop stddev_samp variance var_pop var_samp corr covar_pop
  covar_samp regr_count array_agg string_agg json_agg jsonb_agg json_object_agg jsonb_object_agg bit_and bit_or
  percentile_cont percentile_disc mode
  row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
  coalesce nullif greatest least cast extract
  lower upper initcap length char_length character_length octet_length bit_length position substring substr left right
  lpad rpad trim btrim ltrim rtrim replace translate reverse repeat split_part strpos starts_with concat concat_ws
  format quote_ident quote_literal md5 sha256 encode decode ascii chr to_hex overlay regexp_match regexp_matches
  regexp_replace regexp_split_to_array regexp_split_to_table string_to_array string_to_table array_to_string
  to_char to_date to_timestamp to_number date_trunc date_part date_bin age now make_date make_time make_timestamp
  make_timestamptz make_interval justify_days justify_hours clock_timestamp statement_timestamp transaction_timestamp
  array_length array_lower array_upper array_ndims array_position array_positions array_append array_prepend array_cat
  array_remove array_replace cardinality unnest generate_series generate_subscripts
  to_json to_jsonb row_to_json json_build_object jsonb_build_object json_build_array jsonb_build_array json_array_length
  jsonb_array_length json_array_elements jsonb_array_elements json_array_elements_text jsonb_array_elements_text json_each
  jsonb_each json_each_text jsonb_each_text json_object_keys jsonb_object_keys json_typeof jsonb_typeof
  json_extract_path jsonb_extract_path json_extract_path_text jsonb_extract_path_text jsonb_set jsonb_insert
  jsonb_strip_nulls jsonb_pretty jsonb_path_query jsonb_path_exists jsonb_path_query_array jsonb_path_query_first
  to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_rank ts_rank_cd ts_headline
  gen_random_uuid num_nulls num_nonnulls grouping row array
`)

/** Words that may stand before a parenthesis without calling anything; no function can have one of these names. */
export const wordsBeforeParenthesis = words(`
  and any all some as between distinct else exists from group having in lateral not on or order select then union intersect
  except using values when where with offset limit
`)

/** Names that a function could have, and the words after which they are none. */
export const wordsBeforeParenthesisAfter: ReadonlyMap<string, ReadonlySet<string>> = new Map([
  ['by', words('group order partition')],
  ['filter', words(')')],
  ['over', words(')')],
  ['materialized', words('as')],
  ['sets', words('grouping')],
  ['join', words('inner left right full outer cross natural')]
])

/** Words that may stand before a text without naming its type. */
export const wordsBeforeText = words(`
  and any between by case distinct else escape from having ilike in is like limit not offset on or select similar then to
  when where zone
`)

/** Words that never occur in a statement that only reads, or not surely; a column of that name has to be quoted. */
export const forbiddenWords = words(`
  insert update delete merge truncate copy call do execute prepare deallocate listen notify unlisten lock vacuum analyze
  reindex cluster refresh comment grant revoke create alter drop begin commit rollback savepoint release start abort end_
  set reset show discard declare fetch move close checkpoint load import security reassign explain into for tablesample
  nextval setval currval lastval current_setting
`)

/** Types a cast may name: converting to a type of the user's may run a function of the user's. */
export const pureTypes = words(`
  smallint integer int int2 int4 int8 bigint decimal numeric real float float4 float8 double text varchar char character
  bpchar name boolean bool date time timetz timestamp timestamptz interval uuid json jsonb bytea inet cidr macaddr bit
  varbit point money xml tsvector tsquery oid
`)

/** PostgreSQL's own operators; others are the user's and may run anything. */
export const pureOperators: ReadonlySet<string> = new Set(
  '+ - * / % ^ = <> != < > <= >= || | & # ~ << >> ~* !~ !~* ~~ ~~* !~~ !~~* -> ->> #> #>> @> <@ ? ?| ?& && @@ @? #- <-> -|- |/ ||/ @'.split(
    ' '
  )
)

/** What each server has of its own: "Cumulative Statistics System" and "System Views" of PostgreSQL's manual. */
const serverLocalViews = words(`
  pg_locks pg_settings pg_file_settings pg_hba_file_rules pg_ident_file_mappings pg_config pg_cursors pg_prepared_statements
  pg_prepared_xacts pg_replication_slots pg_replication_origin_status pg_shmem_allocations pg_shmem_allocations_numa
  pg_backend_memory_contexts pg_dsm_registry_allocations pg_aios pg_wait_events pg_buffercache pg_buffercache_numa
`)

/** Whether a name is that of such a view. `pg_stats` is not: the statistics of tables are replicated. */
export const isServerLocal = (name: string): boolean =>
  name.startsWith('pg_') && (/^pg_stat(?:io)?_/.test(name) || serverLocalViews.has(name))
