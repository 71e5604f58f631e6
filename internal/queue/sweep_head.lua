-- Removes the tombstones at the head of a list of pending tasks.
--
-- KEYS[1]  list of pending tasks
-- ARGV     tasks to look at, prefix of the tasks' keys
-- reply    the number of tombstones removed

local ids = redis.call("LRANGE", KEYS[1], -ARGV[1], -1)
local kept, removed = {}, 0
for i = 1, #ids do
  if redis.call("HEXISTS", ARGV[2] .. ids[i], "ended") == 1 then
    redis.call("DEL", ARGV[2] .. ids[i])
    removed = removed + 1
  else
    kept[#kept + 1] = ids[i]
  end
end
if removed > 0 then
  redis.call("LTRIM", KEYS[1], 0, -1 - #ids)
  if #kept > 0 then redis.call("RPUSH", KEYS[1], unpack(kept)) end
end
return removed
