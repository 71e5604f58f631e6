-- Corrects the sums of a day by differences, once. Tasks that end meanwhile stay counted.
--
-- KEYS: counted tasks (sorted set), then hashes of sums
-- ARGV: name of the correction, its time (milliseconds), seconds to live of the sums, then
--   for each hash: the number of fields, then fields and differences
-- Reply: 1, or 0 when the correction has been made before
if redis.call("ZADD", KEYS[1], "NX", ARGV[2], ARGV[1]) == 0 then return 0 end
redis.call("EXPIRE", KEYS[1], ARGV[3])
local at = 4
for k = 2, #KEYS do
  local fields = tonumber(ARGV[at])
  for i = at + 1, at + 2 * fields, 2 do
    if redis.call("HINCRBY", KEYS[k], ARGV[i], ARGV[i + 1]) == 0 then redis.call("HDEL", KEYS[k], ARGV[i]) end
  end
  redis.call("EXPIRE", KEYS[k], ARGV[3])
  at = at + 2 * fields + 1
end
return 1
