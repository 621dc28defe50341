-- The job is free to run again when it is due. Answers 1 again to the same lease.
-- ARGV: fence, delay ms, counted (0|1), record ttl ms, failure
local key, fence = KEYS[1], ARGV[1]
local row = redis.call('HMGET', key, 'fence', 'state')
if row[1] ~= fence then
  return 0
end
if row[2] ~= 'running' then
  return 1
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local delay = tonumber(ARGV[2])
if ARGV[3] == '0' then
  redis.call('HINCRBY', key, 'attempt', -1)
end
if ARGV[5] ~= '' then
  redis.call('HSETNX', key, 'first_failed_at', now)
  redis.call('HSET', key, 'failure', ARGV[5])
end
redis.call('HSET', key, 'state', 'waiting', 'due_at', now + delay)
redis.call('HDEL', key, 'owner', 'lease_until')
redis.call('PEXPIRE', key, delay + tonumber(ARGV[4]))
return 1
