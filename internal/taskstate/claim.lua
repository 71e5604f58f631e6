-- Claims a task unless another process owns it, and reads its counters.
--
-- KEYS: record
-- ARGV: owner, expiry (Unix seconds), then the fields to read
-- Reply: the owner now, then the values of the fields
local had = redis.call("HMGET", KEYS[1], "holder", unpack(ARGV, 3))
if not had[1] then
  redis.call("HSET", KEYS[1], "holder", ARGV[1])
  redis.call("EXPIREAT", KEYS[1], ARGV[2])
  had[1] = ARGV[1]
end
if had[1] == ARGV[1] then redis.call("HDEL", KEYS[1], "idle") end
return had
