-- What the processes of a service have said of themselves, when, and whether they are alive.
-- KEYS: the processes of the service. ARGV: what the keys of processes begin with
local answers = {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local row = redis.call('HMGET', ARGV[1] .. name, 'about', 'beat_at', 'span', 'begun')
  if row[1] then
    local is_alive = not row[4] and now < tonumber(row[2]) + tonumber(row[3])
    answers[#answers + 1] = {row[1], row[2], is_alive and 1 or 0}
  end
end
return answers
