-- Re-admits the first tasks of a list of deferred tasks at the head of their queue, until
-- the given number of the model's tasks is there. An entry of an active task stays, because
-- its worker is about to defer it. An entry whose task was returned to the queue otherwise
-- is removed.
--
-- KEYS     deferred tasks of the model, retries, list of pending tasks
-- ARGV     room, prefix of the tasks' keys, time (ns), model
-- reply    the number of re-admitted tasks

local room = tonumber(ARGV[1])
if redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
for _, id in ipairs(redis.call("LRANGE", KEYS[3], -room, -1)) do
  local model = string.match(redis.call("HGET", ARGV[2] .. id, "turn") or "", "^%d+ %d+ (.*)$")
  if model == ARGV[4] then room = room - 1 end
end
if room <= 0 then return 0 end
local ids = redis.call("ZRANGE", KEYS[1], 0, room - 1)
local moved = 0
for i = #ids, 1, -1 do
  local hash = ARGV[2] .. ids[i]
  if redis.call("ZREM", KEYS[2], ids[i]) == 1 then
    redis.call("ZREM", KEYS[1], ids[i])
    redis.call("HSET", hash, "state", "pending", "pending_since", ARGV[3])
    wake(KEYS[3], ids[i], redis.call("RPUSH", KEYS[3], ids[i]))
    moved = moved + 1
  elseif redis.call("HGET", hash, "state") ~= "active" then
    redis.call("ZREM", KEYS[1], ids[i])
  end
end
return moved
