-- The job is free to run again when it is due. Answers 1 again to the same lease.
-- ARGV: fence, owner, delay ms, counted (0|1), record ttl ms, failure
local key = KEYS[1]
local row = redis.call('HMGET', key, 'fence', 'state', 'owner')
if row[1] ~= ARGV[1] or row[3] ~= ARGV[2] then
  return 0
end
if row[2] ~= 'running' then
  return 1
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local delay = tonumber(ARGV[3])
if ARGV[4] == '0' then
  redis.call('HINCRBY', key, 'attempt', -1)
end
if ARGV[6] ~= '' then
  redis.call('HSETNX', key, 'first_failed_at', now)
  redis.call('HSET', key, 'failure', ARGV[6])
end
redis.call('HSET', key, 'state', 'waiting', 'due_at', now + delay)
redis.call('HDEL', key, 'lease_until')
redis.call('PEXPIRE', key, delay + tonumber(ARGV[5]))
return 1
