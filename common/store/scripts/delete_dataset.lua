-- Removes a data set that no unended job reads.
-- KEYS: 1 dataset (string)  2 datasets (zset)  3 dataset jobs (set)  4 contents of data sets (hash)
--   5 data sets of contents (hash)
-- ARGV: 1 id  2 prefix of jobs
-- Answers "ok" | "missing" | "in_use"
if redis.call("EXISTS", KEYS[1]) == 0 then return "missing" end
if is_used(KEYS[3], ARGV[2]) then return "in_use" end
redis.call("DEL", KEYS[1], KEYS[3])
redis.call("ZREM", KEYS[2], ARGV[1])
local content = redis.pcall("HGET", KEYS[4], ARGV[1])
if type(content) == "string" then
  redis.pcall("HDEL", KEYS[4], ARGV[1])
  if redis.pcall("HGET", KEYS[5], content) == ARGV[1] then redis.pcall("HDEL", KEYS[5], content) end
end
return "ok"
