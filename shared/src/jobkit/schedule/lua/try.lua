-- Use every command of the other scripts, and leave nothing. KEYS: hashes. ARGV: a field that none of them has
for _, key in ipairs(KEYS) do
  redis.call('HEXISTS', key, ARGV[1])
  redis.call('HGET', key, ARGV[1])
  redis.call('HDEL', key, ARGV[1])
  -- An error does not undo what a script has done before it, so these two are cleared up first.
  local counted, set = redis.pcall('HINCRBY', key, ARGV[1], 1), redis.pcall('HSET', key, ARGV[1], '')
  redis.call('HDEL', key, ARGV[1])
  for _, answer in ipairs({counted, set}) do
    if type(answer) == 'table' and answer.err then
      return answer
    end
  end
end
