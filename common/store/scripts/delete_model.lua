-- Removes a published model that no unended job begins with.
-- KEYS: 1 model (hash)  2 models (zset)  3 model versions (zset)  4 jobs of the model (set)   ARGV: 1 id  2 prefix of jobs
-- Answers "ok" | "missing" | "in_use"
if redis.call("HEXISTS", KEYS[1], "version") == 0 then return "missing" end
if is_used(KEYS[4], ARGV[2]) then return "in_use" end
redis.call("DEL", KEYS[1], KEYS[4])
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("ZREM", KEYS[3], ARGV[1])
return "ok"
