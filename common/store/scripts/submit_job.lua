-- Creates a queued job, or answers with the one that the same Idempotency-Key created before.
-- KEYS: 1 job (hash)  2 jobs (zset)  3 queue (zset)  4 jobs:state:queued (zset)  5 dataset (string)
--       6 dataset jobs (set)  7 sequence (counter)  8 job events (stream)  9 idempotency (hash, or "")
--       10 model it needs (hash, or "")  11 jobs of that model (set)  12 validation data set (string, or "")
--       13 jobs of the validation data set (set)  14... jobs:label:* (zset)
-- ARGV: 1 job id  2 priority  3 most queued jobs  4 now  5 digest of the request  6 channel of changes
--       7... field, value pairs of the job
-- Answers {"ok", id} | {"replayed", id} | {"reused"} | {"no_dataset"} | {"no_model"} | {"queue_full"}
if KEYS[9] ~= "" then
  local digest = redis.call("HGET", KEYS[9], "digest")
  local id = redis.call("HGET", KEYS[9], "id")
  -- what the key created may have been deleted since: then the key is free again
  if digest and redis.call("EXISTS", string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[1]) .. id) == 1 then
    if digest ~= ARGV[5] then return {"reused"} end
    return {"replayed", id}
  end
end
if redis.call("EXISTS", KEYS[1]) == 1 then return {"ok", ARGV[1]} end
if redis.call("EXISTS", KEYS[5]) == 0 then return {"no_dataset"} end
if KEYS[12] ~= "" and redis.call("EXISTS", KEYS[12]) == 0 then return {"no_dataset"} end
if KEYS[10] ~= "" and redis.call("HEXISTS", KEYS[10], "version") == 0 then return {"no_model"} end
if redis.call("ZCARD", KEYS[3]) >= tonumber(ARGV[3]) then return {"queue_full"} end
for _, index in ipairs({ KEYS[2], KEYS[3], KEYS[4], unpack(KEYS, 14) }) do
  if not fits(index, "zset") then return damaged() end
end
if not (fits(KEYS[6], "set") and fits(KEYS[11], "set") and fits(KEYS[13], "set")) then return damaged() end
local seq = redis.call("INCR", KEYS[7])
redis.call("HSET", KEYS[1], "id", ARGV[1], "seq", seq, "priority", ARGV[2], "state", "queued", "revision", 1,
  "attempt", 0, "fence", 0, "lease", 0, "created_at", ARGV[4], unpack(ARGV, 7))
redis.call("ZADD", KEYS[2], seq, ARGV[1])
redis.call("ZADD", KEYS[3], seq - tonumber(ARGV[2]) * 1099511627776, ARGV[1])
redis.call("ZADD", KEYS[4], seq, ARGV[1])
redis.call("SADD", KEYS[6], ARGV[1])
if KEYS[10] ~= "" then redis.call("SADD", KEYS[11], ARGV[1]) end
if KEYS[12] ~= "" then redis.call("SADD", KEYS[13], ARGV[1]) end
for i = 14, #KEYS do redis.call("ZADD", KEYS[i], seq, ARGV[1]) end
tell(KEYS[8], "state", ARGV[4], '{"state":"queued"}')
if KEYS[9] ~= "" then
  redis.call("HSET", KEYS[9], "digest", ARGV[5], "id", ARGV[1])
  redis.call("EXPIRE", KEYS[9], 86400)
end
redis.call("PUBLISH", ARGV[6], ARGV[1])
return {"ok", ARGV[1]}
