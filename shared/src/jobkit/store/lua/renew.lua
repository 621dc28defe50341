-- Extend leases that are still theirs, lapsed or not: as long as nobody else was given a higher fence, nothing is lost.
-- KEYS: the records. ARGV: ttl ms, record ttl ms, then fence and owner of each
local ttl, record_ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = {}
for i, key in ipairs(KEYS) do
  local row = redis.call('HMGET', key, 'fence', 'owner')
  if row[1] == ARGV[1 + 2 * i] and row[2] == ARGV[2 + 2 * i] then
    redis.call('HSET', key, 'lease_until', now + ttl)
    redis.call('PEXPIRE', key, ttl + record_ttl)
    held[i] = 1
  else
    held[i] = 0
  end
end
return held
