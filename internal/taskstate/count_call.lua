-- Counts a call, with fencing: it refuses when another process owns the task or has ended
-- it. That happens when Redis lost its latest writes or this process was away. If Redis has
-- lost the record, the other counters of the owner are written too.
--
-- KEYS: record
-- ARGV: owner, calls, attempts, expiry (Unix seconds), name of Redis' memory, settled, unpaid
-- Reply: 1, or 0 when not counted
local had = redis.call("HMGET", KEYS[1], "holder", "ended", "idle", "attempts")
if had[1] and had[1] ~= ARGV[1] or had[2] then return 0 end
if not had[1] then
  redis.call("HSET", KEYS[1], "holder", ARGV[1], "memory", ARGV[5])
  redis.call("EXPIREAT", KEYS[1], ARGV[4])
end
if had[3] then redis.call("HDEL", KEYS[1], "idle") end
redis.call("HSET", KEYS[1], "calls", ARGV[2], "attempts", ARGV[3])
if not had[4] and ARGV[6] .. ARGV[7] ~= "00" then
  redis.call("HSET", KEYS[1], "settled", ARGV[6], "unpaid", ARGV[7])
end
return 1
