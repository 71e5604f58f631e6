-- Assigns an idempotency key to a task unless another task owns it. It extends the expiry of
-- the record of a task that has not ended, and never shortens it.
--
-- KEYS: record
-- ARGV: digest, seconds to live
-- Reply: the digest that owned the key before ("" for none), and 1 if that task has ended
local had = redis.call("HMGET", KEYS[1], "digest", "ended")
if not had[1] then redis.call("HSET", KEYS[1], "digest", ARGV[1]) end
if not had[2] then
  local ttl = redis.call("TTL", KEYS[1])
  if ttl < tonumber(ARGV[2]) then redis.call("EXPIRE", KEYS[1], ARGV[2]) end
end
return {had[1] or "", had[2] and 1 or 0}
