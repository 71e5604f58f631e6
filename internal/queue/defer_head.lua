-- Defers tasks at the head of a queue that belong to models without room, so that other
-- tasks reach the head.
--
-- KEYS[1]    list of pending tasks
-- KEYS[2]    retries: a sorted set
-- KEYS[3..]  deferred tasks of each model
-- ARGV       tasks to look at, prefix of the tasks' keys, seconds from deadline to retry, then the models
-- reply      the number of deferred tasks

local full = {}
for i = 4, #ARGV do full[ARGV[i]] = KEYS[i - 1] end
local ids = redis.call("LRANGE", KEYS[1], -ARGV[1], -1)
local kept, moved = {}, 0
for i = 1, #ids do
  local turn = redis.call("HGET", ARGV[2] .. ids[i], "turn")
  local accepted, last, model = string.match(turn or "", "^(%d+) (%d+) (.*)$")
  if model and full[model] then
    redis.call("HSET", ARGV[2] .. ids[i], "state", "retry")
    redis.call("HDEL", ARGV[2] .. ids[i], "pending_since")
    redis.call("ZADD", KEYS[2], last + ARGV[3], ids[i])
    redis.call("ZADD", full[model], accepted, ids[i])
    moved = moved + 1
  else
    kept[#kept + 1] = ids[i]
  end
end
if moved > 0 then
  redis.call("LTRIM", KEYS[1], 0, -1 - #ids)
  if #kept > 0 then redis.call("RPUSH", KEYS[1], unpack(kept)) end
end
return moved
