-- Raises a sum of a day to what was spent before there was a cap.
--
-- KEYS: sums of the day (hash)
-- ARGV: name of the sum, millionths of neurons, seconds to live
if tonumber(redis.call("HGET", KEYS[1], "s " .. ARGV[1]) or 0) < tonumber(ARGV[2]) then
  redis.call("HSET", KEYS[1], "s " .. ARGV[1], ARGV[2])
  redis.call("EXPIRE", KEYS[1], ARGV[3])
end
return 0
