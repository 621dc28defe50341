-- Give the job to whoever asks, unless it is running elsewhere, not due, done, or dead.
-- ARGV: owner, ttl ms, record ttl ms, sent at, attempts before, revived (0|1), slack ms, alone at, alone (0|1)
local key, owner, ttl, record_ttl = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local revived = ARGV[6] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local row = redis.call('HMGET', key, 'state', 'owner', 'lease_until', 'due_at', 'attempt', 'crashes', 'sent_at',
  'first_failed_at', 'fence')
local state, crashes, first_failed_at = row[1], tonumber(row[6] or 0), row[8] or '0'
local attempt = math.max(tonumber(row[5] or 0), revived and 0 or tonumber(ARGV[5]))

if state == 'done' then
  return {'done'}
elseif state == 'dead' then
  if row[7] == ARGV[4] and not revived then
    return {'dead'}
  end
  attempt, crashes, first_failed_at = 0, 0, '0'
elseif state == 'running' then
  if row[2] == owner then
    return {'leased', row[9], row[5], row[6], first_failed_at}
  end
  local remaining = tonumber(row[3]) - now
  if remaining > 0 then
    return {'held', string.format('%.0f', remaining), 'running'}
  end
  crashes = crashes + 1
elseif state == 'waiting' then
  local remaining = tonumber(row[4]) - now
  if remaining > tonumber(ARGV[7]) then
    return {'held', string.format('%.0f', remaining), 'waiting'}
  end
end

-- Nothing is written yet: an owner that was only late can still finish.
if crashes > 0 and crashes == tonumber(ARGV[8]) and ARGV[9] == '0' then
  return {'suspect', tostring(crashes)}
end

attempt = attempt + 1
-- No lower than the clock, so that it rises even over the loss or the expiry of the record.
local fence = string.format('%.0f', math.max(tonumber(row[9] or 0) + 1, now))
redis.call('HSET', key, 'state', 'running', 'owner', owner, 'lease_until', now + ttl, 'attempt', attempt,
  'crashes', crashes, 'sent_at', ARGV[4], 'started_at', now, 'fence', fence)
redis.call('HDEL', key, 'percent', 'step', 'note', 'due_at', 'finished_at', 'result')
if first_failed_at == '0' then
  redis.call('HDEL', key, 'first_failed_at', 'failure')
end
redis.call('PEXPIRE', key, ttl + record_ttl)
return {'leased', fence, tostring(attempt), tostring(crashes), first_failed_at}
