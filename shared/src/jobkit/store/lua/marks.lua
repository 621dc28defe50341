-- Stands before scripts that ask whether a job is done: the marks of jobs that are.
--
-- A mark is a field of a hash, named by a digest of actor and id. The hashes are the buckets of a generation and expire
-- as a whole: an expiry of its own would take each mark more memory than the mark. The keys of all begin with `done`.
-- `done .. 'generations'` holds those that live, the newest first, 28 characters each: "start:end,".

-- The job's mark; nil if it has none.
local function mark_of(done, digest)
  local generations = redis.call('GET', done .. 'generations')
  if not generations then return nil end
  local bucket = ':' .. string.byte(digest)
  for at = 1, #generations, 28 do
    local mark = redis.call('HGET', done .. string.sub(generations, at, at + 12) .. bucket, digest)
    if mark then return mark end
  end
end

-- The job's state, if its record is this lease's; else nil. A lower fence than the lease's is from before it: Redis has
-- lost what it was told last. So the record is written again, unless the job is done. The caller says how long it lasts.
-- `row` is what the record says of its fence, its owner and its state, and `stem` what the job's mark would begin with:
-- in nine bytes, the lease.
local function state_under(row, key, fence, owner, attempt, crashes, first_failed_at, sent_at, rounds, done, digest,
    stem)
  if row[1] == fence and row[2] == owner then
    return row[3]
  end
  if row[1] and (tonumber(row[1]) >= tonumber(fence) or row[3] == 'done') then
    return nil
  end
  local mark = mark_of(done, digest)
  if mark then
    return string.sub(mark, 1, 9) == string.sub(stem, 1, 9) and 'done' or nil
  end
  redis.call('DEL', key)
  redis.call('HSET', key, 'state', 'running', 'fence', fence, 'owner', owner, 'attempt', attempt, 'crashes', crashes,
    'first_failed_at', first_failed_at, 'sent_at', sent_at)
  if rounds ~= '' then
    redis.call('HSET', key, 'rounds', rounds)
  end
  return 'running'
end
