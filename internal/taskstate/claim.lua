-- Claims a task unless another process owns it, and reads its counters. A task whose workers
-- died is marked as idle until its owner has isolated it: the owner does nothing for it before.
--
-- KEYS: record
-- ARGV: owner, name of Redis' memory, expiry (Unix seconds), 1 if the owner has isolated the
--       task, then the fields to read
-- Reply: the owner now, the name of the memory in which it claimed the task, then the values
--        of the fields
local had = redis.call("HMGET", KEYS[1], "holder", "memory", "crashes", unpack(ARGV, 5))
local crashes = tonumber(table.remove(had, 3) or 0) or 0
if not had[1] or had[1] == ARGV[1] then
  redis.call("HSET", KEYS[1], "holder", ARGV[1], "memory", ARGV[2])
  if crashes > 0 and ARGV[4] ~= "1" then
    redis.call("HSET", KEYS[1], "idle", 1)
  else
    redis.call("HDEL", KEYS[1], "idle")
  end
  if not had[1] then redis.call("EXPIREAT", KEYS[1], ARGV[3]) end
  had[1], had[2] = ARGV[1], ARGV[2]
end
had[2] = had[2] or ""
return had
