-- Returns the models of one page of pending tasks, counted from the head of the list, and
-- of one page of active tasks.
--
-- KEYS     list of pending tasks, list of active tasks
-- ARGV     prefix of the tasks' keys, pending tasks to skip, length of a page
-- reply    the models, each once

local models, seen = {}, {}
for k = 1, #KEYS do
  local from, to = -ARGV[2] - ARGV[3], -1 - ARGV[2]
  if k > 1 then from, to = 0, ARGV[3] - 1 end
  for _, id in ipairs(redis.call("LRANGE", KEYS[k], from, to)) do
    local model = string.match(redis.call("HGET", ARGV[1] .. id, "turn") or "", "^%d+ %d+ (.*)$")
    if model and not seen[model] then
      seen[model] = true
      models[#models + 1] = model
    end
  end
end
return models
