-- Removes a data set that no unended job reads.
-- KEYS: 1 dataset (string)  2 datasets (zset)  3 dataset jobs (set)   ARGV: 1 id  2 prefix of jobs
-- Answers "ok" | "missing" | "in_use"
if redis.call("EXISTS", KEYS[1]) == 0 then return "missing" end
if is_used(KEYS[3], ARGV[2]) then return "in_use" end
redis.call("DEL", KEYS[1], KEYS[3])
redis.call("ZREM", KEYS[2], ARGV[1])
return "ok"
