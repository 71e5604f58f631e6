-- Announces a queue that has pending tasks, unless a person paused it.
--
-- KEYS     list of pending tasks, asynq's mark of a paused queue
-- ARGV     id of the announcement
-- reply    1 when the queue has tasks and is not paused, else 0

if redis.call("EXISTS", KEYS[1]) == 0 or redis.call("EXISTS", KEYS[2]) == 1 then return 0 end
wake(KEYS[1], ARGV[1], 1)
return 1
