-- Stands before each script. The hash of ticks has one JSON object per schedule: "when" is what was announced last,
-- "cursors" has for each expression the last tick, the one before it, the last that was sent, the last announcement and
-- its round. Numbers are text, as Lua's JSON would round them.

local function read(ticks, name)
  local readable, known = pcall(cjson.decode, redis.call('HGET', ticks, name) or '')
  return readable and type(known) == 'table' and known or {}
end

-- What is known of a schedule, and the cursor of one of its expressions; of the last announced one for ''.
local function find(ticks, name, when)
  local known = read(ticks, name)
  return known, (known.cursors or {})[when ~= '' and when or known.when or '']
end
