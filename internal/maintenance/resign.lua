-- Releases the leader lock.
--
-- KEYS[1]  the lock
-- ARGV     this process
-- reply    1 when this process had it

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
