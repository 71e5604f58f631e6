-- Reads all gates that were ever used.
--
-- KEYS     set of the gates' names
-- ARGV     what begins and ends the key of a gate
-- reply    the time (seconds, microseconds), then for each gate its name and its fields

local now = redis.call("TIME")
local reply = {now[1], now[2]}
for _, name in ipairs(redis.call("SMEMBERS", KEYS[1])) do
  reply[#reply + 1] = name
  reply[#reply + 1] = redis.call("HGETALL", ARGV[1] .. name .. ARGV[2])
end
return reply
