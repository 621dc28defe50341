-- The job is done or dead. Answers 1 again to the same lease; a record that was lost is written anew.
-- ARGV: fence, state, record ttl ms, result, failure
local key, fence, state = KEYS[1], ARGV[1], ARGV[2]
local row = redis.call('HMGET', key, 'fence', 'state')
if row[1] and row[1] ~= fence then
  return 0
end
if row[1] and row[2] ~= 'running' then
  return row[2] == state and 1 or 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', key, 'fence', fence, 'state', state, 'finished_at', now, 'result', ARGV[4], 'failure', ARGV[5])
if state == 'done' then
  redis.call('HSET', key, 'percent', 100)
end
redis.call('HDEL', key, 'owner', 'lease_until', 'due_at')
redis.call('PEXPIRE', key, tonumber(ARGV[3]))
return 1
