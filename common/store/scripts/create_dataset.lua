-- Publishes a data set, or answers with the one that the same Idempotency-Key created before.
-- KEYS: 1 dataset (string)  2 datasets (zset)  3 dataset version counter  4 sequence (counter)  5 idempotency (hash, or "")
--   6 contents of data sets (hash)  7 data sets of contents (hash)
-- ARGV: 1 id  2 record (JSON, its version 0)  3 digest  4 content, or ""
-- Answers {"ok", id} | {"replayed", id} | {"reused"}
if KEYS[5] ~= "" then
  local digest = redis.call("HGET", KEYS[5], "digest")
  local id = redis.call("HGET", KEYS[5], "id")
  -- what the key created may have been deleted since: then the key is free again
  if digest and redis.call("EXISTS", string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[1]) .. id) == 1 then
    if digest ~= ARGV[3] then return {"reused"} end
    return {"replayed", id}
  end
end
if redis.call("EXISTS", KEYS[1]) == 1 then return {"ok", ARGV[1]} end
if not fits(KEYS[2], "zset") then return damaged() end
local seq, version = redis.call("INCR", KEYS[4]), redis.call("INCR", KEYS[3])
redis.call("SET", KEYS[1], (string.gsub(ARGV[2], '"version":0', '"version":' .. version, 1)))
redis.call("ZADD", KEYS[2], seq, ARGV[1])
if ARGV[4] ~= "" then
  redis.pcall("HSET", KEYS[6], ARGV[1], ARGV[4])
  redis.pcall("HSET", KEYS[7], ARGV[4], ARGV[1])
end
if KEYS[5] ~= "" then
  redis.call("HSET", KEYS[5], "digest", ARGV[3], "id", ARGV[1])
  redis.call("EXPIRE", KEYS[5], 86400)
end
return {"ok", ARGV[1]}
