-- The job is done or dead. Answers 1 again to the same lease.
-- KEYS: the record, the result. ARGV: the lease (fence, owner, attempt, crashes, first failed at, sent at, rounds, done, digest, stem), state,
-- record ttl ms, result, failure, result ttl ms, keep the record (0|1)
local key, fence, owner, state, ttl = KEYS[1], ARGV[1], ARGV[2], ARGV[11], tonumber(ARGV[12])
local row = redis.call('HMGET', key, 'fence', 'owner', 'state', 'started_at', 'attempt', 'crashes', 'step', 'note')
local before = state_under(row, key, unpack(ARGV, 1, 10))
-- Waiting, if its worker has handed the job back on its behalf, and it came to an end after all.
if before ~= 'running' and before ~= 'waiting' then
  return before == state and 1 or 0
end

if state == 'dead' then
  redis.call('PEXPIRE', key, ttl) -- first, as in `lend`
  redis.call('HSET', key, 'state', state, 'finished_at', now, 'result', ARGV[13], 'failure', ARGV[14])
  redis.call('HDEL', key, 'lease_until', 'due_at', 'span')
  return 1
end

local done, digest, result = ARGV[8], ARGV[9], ARGV[13]
local generations = redis.call('GET', done .. 'generations') or '' -- before any write, should it not be permitted
if ARGV[16] == '1' then -- for versions that know no marks
  redis.call('PEXPIRE', key, ttl)
  redis.call('HSET', key, 'state', state, 'finished_at', now, 'result', result, 'failure', '', 'percent', 100)
  redis.call('HDEL', key, 'lease_until', 'due_at', 'span')
else
  redis.call('DEL', key) -- the first write, as in `lend`
end
if row[1] ~= fence or row[2] ~= owner then
  row = {fence, owner, before, nil, ARGV[3], ARGV[4]} -- the record was lost, and has been written again
end
local started_at, attempt, crashes, step, note = row[4], row[5], row[6] or '0', row[7] or '', row[8] or ''

-- A generation in which a mark lives for a record's life, and for half as long again at most: one begins when half of a
-- life is over, so a claim looks through three. It is looked for by its end. So workers with another life have others,
-- and a clock that went back goes on with this one.
local start, left
for at = 1, #generations, 28 do
  left = tonumber(string.sub(generations, at + 14, at + 26)) - now
  if ttl <= left and left <= 2 * ttl then
    start = string.sub(generations, at, at + 12)
    break
  end
end
if not start then
  local name = now
  while string.find(generations, string.format('%013.0f:', name), 1, true) do name = name + 1 end
  start, left = string.format('%013.0f', name), ttl + math.ceil(ttl / 2)
  local living, longest = string.format('%s:%013.0f,', start, now + left), left
  for at = 1, #generations, 28 do
    local ends = tonumber(string.sub(generations, at + 14, at + 26))
    if ends > now then
      living, longest = living .. string.sub(generations, at, at + 27), math.max(longest, ends - now)
    end
  end
  redis.call('SET', done .. 'generations', living, 'PX', string.format('%.0f', longest))
end

local number = string.byte(digest)
local bucket = done .. start .. ':' .. number
-- The length of the run is in milliseconds; the largest number stands for "unknown".
local run = started_at and math.min(math.max(now - started_at, 0), 4294967294) or 4294967295
redis.call('HSET', bucket, digest, ARGV[10] .. struct.pack('>I6I4I2B', now, run, math.min(attempt, 65535),
  math.min(crashes, 255)))
if redis.call('HLEN', bucket) == 1 then
  -- A value of more than 64 bytes makes a table of the hash. Of up to 512 marks it would be a list otherwise, which takes
  -- some 10 us to look through.
  redis.call('HSET', bucket, '', 'Marks of jobs that are done, by digests of actor and id: docs/reference/job-records.md')
  -- The buckets expire in the course of some minutes, so that Redis never frees the marks of hours at once.
  redis.call('PEXPIRE', bucket, string.format('%.0f', left + math.floor(number * math.min(1000, ttl / 1024))))
end

-- What the mark has no room for is kept for a while, if there is something.
local result_ttl = math.min(tonumber(ARGV[15]), ttl)
if result_ttl > 0 and (result ~= '' or step ~= '' or note ~= '') then
  redis.call('SET', KEYS[2], struct.pack('>I4I4', #step, #note) .. step .. note .. result, 'PX', result_ttl)
end
return 1
