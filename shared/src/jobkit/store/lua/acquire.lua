-- Give the job to whoever asks, unless it is running elsewhere, not due, done, or dead.
-- ARGV: owner, ttl ms, record ttl ms, sent at, attempts before, revived (0|1), slack ms,
-- alone at, alone (0|1)
local key, owner, ttl, record_ttl = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local row = redis.call('HMGET', key, 'state', 'owner', 'lease_until', 'due_at', 'attempt', 'crashes', 'sent_at', 'first_failed_at')
local state, crashes = row[1], tonumber(row[6] or 0)
local attempt = math.max(tonumber(row[5] or 0), tonumber(ARGV[5]))

if state == 'done' then
  return {'done'}
elseif state == 'dead' then
  if row[7] == ARGV[4] and ARGV[6] == '0' then
    return {'dead'}
  end
  redis.call('HDEL', key, 'first_failed_at', 'failure')
  attempt, crashes, row[8] = 0, 0, '0'
elseif state == 'running' then
  if row[2] == owner then
    return {'leased', redis.call('HGET', key, 'fence'), row[5], row[6], row[8] or '0'}
  end
  local remaining = tonumber(row[3]) - now
  if remaining > 0 then
    return {'held', tostring(remaining), 'running'}
  end
  crashes = crashes + 1
  redis.call('HSET', key, 'state', 'waiting', 'crashes', crashes, 'due_at', now)
  redis.call('HDEL', key, 'owner', 'lease_until')
elseif state == 'waiting' then
  local remaining = tonumber(row[4]) - now
  if remaining > tonumber(ARGV[7]) then
    return {'held', tostring(remaining), 'waiting'}
  end
end

if crashes > 0 and crashes == tonumber(ARGV[8]) and ARGV[9] == '0' then
  return {'suspect', tostring(crashes)}
end

attempt = attempt + 1
local fence = redis.call('HINCRBY', key, 'fence', 1)
redis.call('HSET', key, 'state', 'running', 'owner', owner, 'lease_until', now + ttl, 'attempt', attempt,
  'crashes', crashes, 'sent_at', ARGV[4], 'started_at', now)
redis.call('HDEL', key, 'percent', 'step', 'note')
redis.call('PEXPIRE', key, ttl + record_ttl)
return {'leased', tostring(fence), tostring(attempt), tostring(crashes), row[8] or '0'}
