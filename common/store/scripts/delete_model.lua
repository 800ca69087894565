-- Removes a published model.
-- KEYS: 1 model (hash)  2 models (zset)  3 model versions (zset)   ARGV: 1 id
-- Answers 1, or 0 if there is none.
if redis.call("HEXISTS", KEYS[1], "version") == 0 then return 0 end
redis.call("DEL", KEYS[1])
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("ZREM", KEYS[3], ARGV[1])
return 1
