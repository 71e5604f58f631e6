-- Creates a delivery unless it exists.
--
-- KEYS: delivery
-- ARGV: milliseconds to live, then fields and values
-- reply: 1, or 0 when it exists
if redis.call("EXISTS", KEYS[1]) == 1 then return 0 end
redis.call("HSET", KEYS[1], unpack(ARGV, 2))
redis.call("PEXPIRE", KEYS[1], ARGV[1])
return 1
