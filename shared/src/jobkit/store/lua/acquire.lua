-- Give the job to whoever asks, unless it is running elsewhere, not due, done, or dead.
-- KEYS: the record, and the breaker of the job's actor if it has one
-- ARGV: owner, ttl ms, record ttl ms, sent at, attempts before, round, slack ms, alone at, alone (0|1), due at,
-- delay ms, clock skew ms, most seen, what the keys of processes begin with, instead of, ahead (0|1), done, digest
local key, owner, ttl, record_ttl, sent_at = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local round, slack = tonumber(ARGV[6]), tonumber(ARGV[7])
-- A delayed job that the broker delivered too early waits, the first time: a policy may shorten the broker's delays.
local early = math.min(tonumber(ARGV[10]) - now, tonumber(ARGV[11]))

-- Whether that breaker is open, which a lease says: its key is there as long as it is. EXISTS fails with no kind of
-- value, so no lease is given whose answer is an error.
local function breaker_open()
  return KEYS[2] and tostring(redis.call('EXISTS', KEYS[2])) or ''
end

-- Most jobs are new, and ask once: as below, in two commands.
local state = redis.call('HGET', key, 'state')
if not state and mark_of(ARGV[17], ARGV[18]) then
  return {'done'}
elseif not state and round == 0 and early <= slack then
  local fence, attempt = string.format('%.0f', now), tostring(ARGV[5] + 1)
  redis.call('HSET', key, 'state', 'running', 'owner', owner, 'attempt', attempt, 'sent_at', sent_at, 'started_at', now,
    'fence', fence, 'lease_until', now + ttl, 'span', ttl, unpack(ARGV[16] == '1' and {'ahead', '1'} or {}))
  redis.call('PEXPIRE', key, ttl + record_ttl)
  return {'leased', fence, attempt, '0', '0', sent_at, '0', '0', '', breaker_open()}
end

local row = redis.call('HMGET', key, 'state', 'owner', 'lease_until', 'due_at', 'attempt', 'crashes', 'sent_at',
  'first_failed_at', 'fence', 'span', 'seen', 'finished_at', 'crashes_before', 'rounds', 'ahead')
local attempt, crashes, first_failed_at = tonumber(row[5] or 0), tonumber(row[6] or 0), row[8] or '0'
local crashes_before = row[13] -- there once the job has made a checkpoint
local seen = row[11] or (row[7] and ',' .. row[7] .. ',' or ',')
local was_seen = string.find(seen, ',' .. sent_at .. ',', 1, true) ~= nil
-- The rounds above 0 that the job has run in, by their sends: ",1790000000000:1,".
local rounds = row[14] or ''
-- '1': the lease was given before there was a thread for the job. '0': one such lease has ended by time, and counted
-- nothing. That happens once: a job that takes its machine down each time must not be spared each time.
local ahead = row[15]
local has_run_in = tonumber(string.match(rounds, ',' .. sent_at .. ':(%d+),') or 0)

-- Remember the sends of this job that were delivered, the last ones of many: "," .. "1790000000000" .. ",".
local function see()
  if was_seen then return end
  seen = seen .. sent_at .. ','
  local _, count = string.gsub(seen, '%d+', '')
  if count > tonumber(ARGV[13]) then seen = string.gsub(seen, '^,%d+', '', 1) end
  redis.call('HSET', key, 'seen', seen)
end

-- Remember the round that begins, instead of the one before it of the same send; the last ones of many.
local function begin_round()
  if round <= has_run_in then return end
  rounds = (rounds == '' and ',' or string.gsub(rounds, ',' .. sent_at .. ':%d+,', ',')) .. sent_at .. ':' .. ARGV[6] .. ','
  local _, count = string.gsub(rounds, ':', '')
  if count > tonumber(ARGV[13]) then rounds = string.gsub(rounds, '^,[^,]+', '', 1) end
  redis.call('HSET', key, 'rounds', rounds)
end

-- How much of a lease or a wait is left. More than there was at first means that the clock went back: nobody knows how
-- much has passed, so it begins again, and is over when that much has passed from now.
local function left(field, moment)
  local remaining, span = tonumber(moment) - now, tonumber(row[10] or math.huge)
  if remaining > span then
    redis.call('HSET', key, field, now + span)
  end
  return math.min(remaining, span)
end

-- Whether the job had begun when its process was declared dead, or gave up its lease; nil if that has not ended so.
local function begun()
  if ARGV[15] ~= '' and row[2] == ARGV[15] then return false end
  local process, number = string.match(row[2] or '', '^(.+):(%d+)$')
  local numbers = process and redis.call('HGET', ARGV[14] .. process, 'begun')
  if not numbers then return nil end
  return string.find(numbers, ',' .. number .. ',', 1, true) ~= nil
end

local stalled = false -- whether the lease before ended without an end of the job
if state == 'done' then
  return {'done'}
elseif state == 'dead' then
  -- A later send starts it again, and so does a higher round of any send. An earlier send is a duplicate, unless its
  -- sender's clock was behind. 0 is no time.
  local later = tonumber(sent_at) - tonumber(row[7])
  local old = sent_at ~= '0' and tonumber(row[12] or now) - tonumber(sent_at) > tonumber(ARGV[12])
  if round <= has_run_in and (later == 0 or (later < 0 and (was_seen or old))) then
    return {'dead'}
  end
  attempt, crashes, first_failed_at, crashes_before, ahead = 0, 0, '0', nil, nil
elseif state == 'running' then
  if row[2] == owner then
    lend(key, ttl, record_ttl) -- it is told of its lease only now
    if ahead == '1' and ARGV[16] == '0' then
      redis.call('HDEL', key, 'ahead') -- by the thread that runs the job
    end
    return {'leased', row[9], row[5], row[6] or '0', first_failed_at, row[7], crashes_before or '0', '0', rounds,
      breaker_open()}
  end
  see()
  local had_begun, remaining = begun(), left('lease_until', row[3])
  if had_begun == nil and remaining > 0 then
    return {'held', string.format('%.0f', remaining), 'running'}
  end
  local is_spared = had_begun == nil and ahead == '1'
  stalled = had_begun ~= false and not is_spared
  if stalled then
    crashes = crashes + 1
  else
    attempt = attempt - 1 -- as if that lease had never been given
  end
  if is_spared then ahead = '0' end
elseif state == 'waiting' then
  see()
  local remaining = left('due_at', row[4])
  if remaining > slack then
    return {'held', string.format('%.0f', remaining), 'waiting'}
  end
end

-- Nothing is given out yet: an owner that was only late can still finish.
if crashes > 0 and crashes == tonumber(ARGV[8]) and ARGV[9] == '0' then
  return {'suspect', tostring(crashes)}
end

see()
begin_round()
local latest = string.format('%.0f', math.max(tonumber(row[7] or 0), tonumber(sent_at)))

if early > slack and (not state or state == 'dead') then
  redis.call('HSET', key, 'state', 'waiting', 'due_at', now + early, 'span', early, 'sent_at', latest, 'attempt', 0,
    'crashes', 0, 'first_failed_at', '0', 'waits_for', 'its delay')
  redis.call('HDEL', key, 'owner', 'percent', 'step', 'note', 'finished_at', 'result', 'failure', 'crashes_before',
    'ahead')
  redis.call('PEXPIRE', key, early + record_ttl)
  return {'held', string.format('%.0f', early), 'waiting'}
end

attempt = math.max(attempt, crashes_before and 0 or tonumber(ARGV[5])) + 1
-- No lower than the clock, so that it rises even over the loss or the expiry of the record.
local fence = string.format('%.0f', math.max(tonumber(row[9] or 0) + 1, now))
redis.call('HSET', key, 'state', 'running', 'owner', owner, 'attempt', attempt, 'crashes', crashes, 'sent_at', latest,
  'first_failed_at', first_failed_at, 'started_at', now, 'fence', fence)
redis.call('HDEL', key, 'percent', 'step', 'note', 'due_at', 'finished_at', 'result', 'waits_for')
if ahead == '0' or ARGV[16] == '1' then
  redis.call('HSET', key, 'ahead', ahead == '0' and '0' or '1')
elseif row[15] then
  redis.call('HDEL', key, 'ahead')
end
if first_failed_at == '0' then
  redis.call('HDEL', key, 'failure')
end
if state == 'dead' then
  redis.call('HDEL', key, 'crashes_before')
end
lend(key, ttl, record_ttl)
return {'leased', fence, tostring(attempt), tostring(crashes), first_failed_at, latest, crashes_before or '0',
  stalled and '1' or '0', rounds, breaker_open()}
