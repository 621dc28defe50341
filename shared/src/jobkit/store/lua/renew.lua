-- Extend leases that are still theirs, lapsed or not: as long as nobody else was given one, nothing is lost. A record
-- that was lost is written anew.
-- KEYS: the records. ARGV: ttl ms, record ttl ms, then fence, owner, attempt and crashes of each
local ttl, record_ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = {}
for i, key in ipairs(KEYS) do
  local fence, owner, attempt, crashes = unpack(ARGV, 4 * i - 1, 4 * i + 2)
  local row = redis.call('HMGET', key, 'fence', 'owner', 'state')
  if not row[1] then
    redis.call('HSET', key, 'state', 'running', 'fence', fence, 'owner', owner, 'attempt', attempt, 'crashes', crashes)
  end
  if not row[1] or (row[1] == fence and row[2] == owner and row[3] == 'running') then
    redis.call('HSET', key, 'lease_until', now + ttl)
    redis.call('PEXPIRE', key, ttl + record_ttl)
    held[i] = 1
  else
    held[i] = 0
  end
end
return held
