-- Replaces the reservation of a call by its price, once.
--
-- KEYS: sums of the day (hash), reservations of the day (hash)
-- ARGV: id of the reservation, price (millionths of neurons) or -1 for what was reserved,
--   then the names of the sums
-- Reply: 1, or 0 when there is no such reservation (any more)
local reserved = redis.call("HGET", KEYS[2], ARGV[1])
if not reserved then return 0 end
redis.call("HDEL", KEYS[2], ARGV[1])
local price = ARGV[2]
if price == "-1" then price = reserved end
for i = 3, #ARGV do
  redis.call("HINCRBY", KEYS[1], "r " .. ARGV[i], "-" .. reserved)
  if price ~= "0" then redis.call("HINCRBY", KEYS[1], "s " .. ARGV[i], price) end
end
return 1
