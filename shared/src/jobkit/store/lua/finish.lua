-- The job is done or dead. Answers 1 again to the same lease; a record that was lost is written anew.
-- ARGV: fence, owner, state, record ttl ms, result, failure
local key, fence, owner, state = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local row = redis.call('HMGET', key, 'fence', 'state', 'owner')
if row[1] and (row[1] ~= fence or row[3] ~= owner) then
  return 0
end
if row[1] and row[2] ~= 'running' then
  return row[2] == state and 1 or 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', key, 'fence', fence, 'owner', owner, 'state', state, 'finished_at', now, 'result', ARGV[5],
  'failure', ARGV[6])
if state == 'done' then
  redis.call('HSET', key, 'percent', 100)
end
redis.call('HDEL', key, 'lease_until')
redis.call('PEXPIRE', key, tonumber(ARGV[4]))
return 1
