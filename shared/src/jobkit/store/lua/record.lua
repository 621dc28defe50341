-- All that is known of a job: the fields of its record; or its mark, and its result, empty if there is none.
-- KEYS: the record, the result. ARGV: done, digest
local row = redis.call('HGETALL', KEYS[1])
if #row > 0 then return {row} end
local mark = mark_of(ARGV[1], ARGV[2])
return mark and {mark, redis.call('GET', KEYS[2]) or ''} or {}
