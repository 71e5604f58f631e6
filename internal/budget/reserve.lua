-- Reserves the highest price of a call under the caps of its day, or refuses it.
--
-- KEYS: sums of the day (hash), reservations of the day (hash)
-- ARGV: id of the reservation, price (millionths of neurons), seconds to live, number of
--   sums, the names of the sums, then caps: the name of a sum and its limit
-- Reply: 0 when reserved, now or by an earlier try of the same id; else the number of the
--   cap that refuses, from 1, what its sum has spent, and what is reserved of it
if redis.call("HEXISTS", KEYS[2], ARGV[1]) == 1 then return {0} end

local price, sums = tonumber(ARGV[2]), tonumber(ARGV[4])
local number = 0
for i = 5 + sums, #ARGV, 2 do
  number = number + 1
  local spent = tonumber(redis.call("HGET", KEYS[1], "s " .. ARGV[i]) or 0)
  local reserved = tonumber(redis.call("HGET", KEYS[1], "r " .. ARGV[i]) or 0)
  if spent + reserved + price > tonumber(ARGV[i + 1]) then return {number, spent, reserved} end
end

for i = 5, 4 + sums do redis.call("HINCRBY", KEYS[1], "r " .. ARGV[i], ARGV[2]) end
redis.call("HSET", KEYS[2], ARGV[1], ARGV[2])
redis.call("EXPIRE", KEYS[1], ARGV[3])
redis.call("EXPIRE", KEYS[2], ARGV[3])
return {0}
