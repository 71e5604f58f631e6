-- Takes, extends or gives back the lease of an action, and stores its state.
--
-- KEYS     the action (hash)
-- ARGV     owner, length of the lease (milliseconds; 0 gives it back), seconds to live of the
--          action, its state (empty leaves it), "new" when the action must not exist yet
-- reply    1, or 0 when another owner has the lease, or a new action exists
local now = redis.call("TIME")
now = now[1] * 1000 + math.floor(now[2] / 1000)
local held = redis.call("HMGET", KEYS[1], "owner", "until", "state")
if ARGV[5] == "new" then
  if held[3] then return 0 end
elseif not held[3] then
  return 0
elseif held[1] ~= ARGV[1] and tonumber(held[2]) > now then
  return 0
end
redis.call("HSET", KEYS[1], "owner", ARGV[1], "until", string.format("%.0f", now + ARGV[2]))
if ARGV[2] == "0" then redis.call("HSET", KEYS[1], "until", "0") end
if ARGV[4] ~= "" then redis.call("HSET", KEYS[1], "state", ARGV[4]) end
redis.call("EXPIRE", KEYS[1], ARGV[3])
return 1
