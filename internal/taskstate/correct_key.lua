-- Moves an idempotency key to the task that owns it according to the bucket or the queue,
-- after another task claimed it in Redis.
--
-- KEYS: record
-- ARGV: digest that has the key in Redis, digest that should have it
-- Reply: 1, or 0 when a third task has the key
if redis.call("HGET", KEYS[1], "digest") ~= ARGV[1] then return 0 end
redis.call("HSET", KEYS[1], "digest", ARGV[2])
return 1
