-- Writes the end of a task, for waiters and other workers, and removes the fields of a
-- running task. The claim of an idempotency key stays. It also publishes the document for a
-- producer without a Store, and wakes waiters.
--
-- KEYS: record, published result
-- ARGV: seconds to live, status, document for the record, document to publish, seconds to live of that
-- Reply: 1
redis.call("HSET", KEYS[1], "ended", ARGV[2])
redis.call("HDEL", KEYS[1], "holder", "memory", "idle", "cancelled", "run", "failure")
if ARGV[3] ~= "" then redis.call("HSET", KEYS[1], "result", ARGV[3]) end
redis.call("EXPIRE", KEYS[1], ARGV[1])
if ARGV[4] ~= "" then redis.call("SET", KEYS[2], ARGV[4], "EX", ARGV[5]) end
redis.pcall("PUBLISH", "neuronmill:ended", string.match(KEYS[1], "{(.*)}$")) -- where it is not allowed, waiters look at intervals
return 1
