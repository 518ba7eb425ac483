/**
 * The beginning of a script: `got`, the values of all its keys in one command, or one by one where Lua's stack could not hold
 * them. A key of another type has no value.
 */
export const readAll = `local got = {}
if #KEYS <= 1000 then
  got = redis.call('MGET', unpack(KEYS))
else
  for i = 1, #KEYS do got[i] = redis.call('MGET', KEYS[i])[1] end
end`
