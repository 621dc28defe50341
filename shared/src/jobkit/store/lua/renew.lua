-- Extend leases that are still theirs, lapsed or not: as long as nobody else was given one, nothing is lost.
-- KEYS: the process, the processes of its service, the records. ARGV: ttl ms, record ttl ms, the process's name, what it
-- says of itself (empty: there is none), then the lease (fence, owner, attempt, crashes, first failed at, sent at, rounds,
-- done, digest, stem) of each
local ttl, record_ttl = tonumber(ARGV[1]), tonumber(ARGV[2])

if ARGV[4] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - record_ttl) -- first, as in `lend`
  redis.call('HSET', KEYS[1], 'about', ARGV[4], 'beat_at', now, 'span', ttl)
  redis.call('PEXPIRE', KEYS[1], ttl + record_ttl)
  redis.call('ZADD', KEYS[2], now, ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ttl + record_ttl)
end

-- The state; nil too if something else was put in the record's place, so that the other leases are renewed all the same.
local function state_of(key, ...)
  local ok, state = pcall(function(...)
    return state_under(redis.call('HMGET', key, 'fence', 'owner', 'state'), key, ...)
  end, ...)
  if not ok and not string.find(type(state) == 'table' and state.err or tostring(state), 'WRONGTYPE') then
    error(state)
  end
  return ok and state or nil
end

local held = {}
for i = 1, #KEYS - 2 do
  local key = KEYS[i + 2]
  if state_of(key, unpack(ARGV, 10 * i - 5, 10 * i + 4)) == 'running' then
    lend(key, ttl, record_ttl)
    held[i] = 1
  else
    held[i] = 0
  end
end
return held
