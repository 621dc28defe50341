-- Take back a last tick in the future. Answers the one that counts. KEYS: ticks. ARGV: name, expression, now
local known, cursor = find(KEYS[1], ARGV[1], ARGV[2])
if not cursor then
  return false
end
if tonumber(cursor.last) > tonumber(ARGV[3]) then
  local before = cursor.before
  cursor.last = before and tonumber(before) <= tonumber(ARGV[3]) and before or ARGV[3]
  cursor.before = nil
  redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(known))
end
return cursor.last
