-- Replaces a record that cannot be read. The old counts are unknown, so the new record
-- assumes one call: the task's next run then looks for its result and for checkpoints.
--
-- KEYS: record
-- ARGV: expiry (Unix seconds)
-- Reply: 1, or 0 when the record is sound
if redis.call("TYPE", KEYS[1]).ok == "hash" then return 0 end
redis.call("DEL", KEYS[1])
redis.call("HSET", KEYS[1], "attempts", 1, "calls", 1)
redis.call("EXPIREAT", KEYS[1], ARGV[1])
return 1
