-- Deletes the lease of its owner.
--
-- KEYS: lease
-- ARGV: owner
-- Reply: 1
if redis.call("GET", KEYS[1]) == ARGV[1] then redis.call("DEL", KEYS[1]) end
return 1
