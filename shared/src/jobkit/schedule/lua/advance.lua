-- Note that a tick was sent; never goes back. KEYS: ticks. ARGV: name, expression, tick
local known, cursor = find(KEYS[1], ARGV[1], ARGV[2])
if cursor and tonumber(ARGV[3]) > tonumber(cursor.last) then
  cursor.before, cursor.last, cursor.sent = cursor.last, ARGV[3], ARGV[3]
  redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(known))
end
