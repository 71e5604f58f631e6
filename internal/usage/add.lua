-- Adds the cost of an ended task to the sums of its day, once.
--
-- KEYS: counted tasks (sorted set), sums of the account, sums of the tenant, sums of the
--   tenants without sums of their own
-- ARGV: id of the task, time of its end (milliseconds), seconds to live of the sums, most
--   counted tasks, most values of a dimension, tenant, name of the sum of all other values,
--   millionths of neurons, calls, calls of unknown price, then dimensions and values
-- Reply: 1, or 0 when the task has been counted before
if redis.call("ZADD", KEYS[1], "NX", ARGV[2], ARGV[1]) == 0 then return 0 end
redis.call("ZREMRANGEBYRANK", KEYS[1], 0, -tonumber(ARGV[4]) - 1)
redis.call("EXPIRE", KEYS[1], ARGV[3])

local most, other = tonumber(ARGV[5]), ARGV[7]

local function add(key, name)
  redis.call("HINCRBY", key, "n " .. name, ARGV[8])
  redis.call("HINCRBY", key, "t " .. name, 1)
  redis.call("HINCRBY", key, "c " .. name, ARGV[9])
  if ARGV[10] ~= "0" then redis.call("HINCRBY", key, "u " .. name, ARGV[10]) end
end

-- place returns the value under which the task is summed: its own, or that of all others
-- once the dimension has the most values.
local function place(key, dimension, value)
  if redis.call("HEXISTS", key, "t " .. dimension .. " " .. value) == 1 then return value end
  if tonumber(redis.call("HGET", key, "s " .. dimension) or 0) >= most then return other end
  redis.call("HINCRBY", key, "s " .. dimension, 1)
  return value
end

local tenant = place(KEYS[2], "tenant", ARGV[6])
add(KEYS[2], "total")
add(KEYS[2], "tenant " .. tenant)
redis.call("EXPIRE", KEYS[2], ARGV[3])

local sums = KEYS[3]
if tenant == other then sums = KEYS[4] end
for i = 11, #ARGV, 2 do
  add(sums, ARGV[i] .. " " .. place(sums, ARGV[i], ARGV[i + 1]))
end
redis.call("EXPIRE", sums, ARGV[3])
return 1
