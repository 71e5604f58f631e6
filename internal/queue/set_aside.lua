-- Moves a damaged message out of its queue and keeps it for a week.
--
-- KEYS     leases, list of active tasks, task, key of the copy
-- ARGV     id
-- reply    1

redis.call("ZREM", KEYS[1], ARGV[1])
redis.call("LREM", KEYS[2], 0, ARGV[1])
if redis.call("EXISTS", KEYS[3]) == 1 then
  redis.call("RENAME", KEYS[3], KEYS[4])
  redis.call("EXPIRE", KEYS[4], 604800)
end
return 1
