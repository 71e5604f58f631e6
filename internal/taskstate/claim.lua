-- Claims a task unless another process owns it, and reads its counters.
--
-- KEYS: record
-- ARGV: owner, name of Redis' memory, expiry (Unix seconds), then the fields to read
-- Reply: the owner now, the name of the memory in which it claimed the task, then the values
--        of the fields
local had = redis.call("HMGET", KEYS[1], "holder", "memory", unpack(ARGV, 4))
if not had[1] or had[1] == ARGV[1] then
  redis.call("HSET", KEYS[1], "holder", ARGV[1], "memory", ARGV[2])
  redis.call("HDEL", KEYS[1], "idle")
  if not had[1] then redis.call("EXPIREAT", KEYS[1], ARGV[3]) end
  had[1], had[2] = ARGV[1], ARGV[2]
end
had[2] = had[2] or ""
return had
