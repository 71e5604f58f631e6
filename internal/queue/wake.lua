-- Prelude of the scripts that put tasks into a list of pending tasks.
--
-- wake announces the first task of a list that was empty, so that idle workers ask for it.
-- A list that has tasks already is being worked off. A user of Redis that may not publish
-- enqueues all the same; workers then find the task within a second.
local function wake(list, id, length)
  if length == 1 then
    redis.pcall("PUBLISH", "neuronmill:wake", string.match(list, "{(.-)}") .. " " .. id)
  end
end

