-- Requeues tasks that are in no list of their queue at its head. Redis leaves such a task
-- when it loses a part of what it wrote. A tombstone, and a task without a message, is
-- removed. A task whose state is of no waiting or active task belongs to another program.
--
-- KEYS[1..3]  lists of pending and active tasks, deadlines
-- KEYS[4..]   sorted sets that may hold a task
-- ARGV        prefix of the tasks' keys, time (ns), longest list to search, then ids
-- reply       for each requeued or removed task: its id and state

local states = { pending = true, active = true, retry = true, scheduled = true, archived = true, [""] = true }
local listed = {}
for i = 1, 2 do
  if redis.call("LLEN", KEYS[i]) > tonumber(ARGV[3]) then return {} end
  for _, id in ipairs(redis.call("LRANGE", KEYS[i], 0, -1)) do listed[id] = true end
end
local reply = {}
for i = 4, #ARGV do
  local id, hash = ARGV[i], ARGV[1] .. ARGV[i]
  for k = 4, #KEYS do listed[id] = listed[id] or redis.call("ZSCORE", KEYS[k], id) end
  local state = redis.call("HGET", hash, "state") or ""
  if not listed[id] and redis.call("EXISTS", hash) == 1 and states[state] then
    if redis.call("HEXISTS", hash, "msg") == 0 or redis.call("HEXISTS", hash, "ended") == 1 then
      redis.call("DEL", hash)
    else
      local deadline = string.match(redis.call("HGET", hash, "turn") or "", "^%d+ (%d+) ")
      if deadline then redis.call("ZADD", KEYS[3], deadline, id) end
      redis.call("HSET", hash, "state", "pending", "pending_since", ARGV[2])
      wake(KEYS[1], id, redis.call("RPUSH", KEYS[1], id))
    end
    reply[#reply + 1] = id
    reply[#reply + 1] = state
  end
end
return reply
