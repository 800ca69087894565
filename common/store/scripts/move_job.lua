-- One compare-and-set move of a job, guarded by the fence of its holder, leaving one event; applied once per token.
-- KEYS: 1 job (hash)  2 queue (zset)  3 jobs:state:<new> (zset)  4 dataset jobs (set)  5 job events (stream)
--       6 prefix of jobs:state:*  7 model (hash, or "")  8 models (zset)  9 model versions (zset)
--       10 model counter  11 sequence (counter)  12 job metrics (hash)  13 jobs to archive (set)
--       14 jobs of the model it needs (set, or "")  15 jobs of the validation data set (set, or "")
--       16 data set that it made (string, or "")  17 datasets (zset)  18 dataset version counter  19 drafts (hash)
-- ARGV: 1 job id  2 new state  3 states it may come from, comma separated  4 fence expected, or ""
--       5 now  6 token  7 event data (JSON)  8 "1" to raise the fence  9 "1" for a claim, which is a new attempt
--       10 "1" if the new state is terminal  11 model id, or ""  12 wishes of which none may be there, comma separated
--       13 a wish that must be there, or ""  14 the last epoch whose metrics are kept, or ""  15 channel of changes
--       16 "loss", "kept" (the next claim is the same attempt), or ""
--       17 most queued jobs, or ""  18 id of the data set, or ""  19 its record (JSON, its version 0)
--       20... field, value pairs to set
-- Answers {"ok", fence, revision} | {"missing"} | {"fenced"} | {"state", current} | {"wish", current} | {"queue_full"}
local state = redis.call("HGET", KEYS[1], "state")
if not state then return {"missing"} end
if redis.call("HGET", KEYS[1], "token") == ARGV[6] then
  return {"ok", redis.call("HGET", KEYS[1], "fence"), redis.call("HGET", KEYS[1], "revision")}
end
if ARGV[4] ~= "" and redis.call("HGET", KEYS[1], "fence") ~= ARGV[4] then return {"fenced"} end
if not string.find("," .. ARGV[3] .. ",", "," .. state .. ",", 1, true) then return {"state", state} end
local wish = redis.call("HGET", KEYS[1], "wish") or ""
if wish ~= "" and string.find("," .. ARGV[12] .. ",", "," .. wish .. ",", 1, true) then return {"wish", wish} end
if ARGV[13] ~= "" and wish ~= ARGV[13] then return {"wish", wish} end
if ARGV[17] ~= "" and redis.call("ZCARD", KEYS[2]) >= tonumber(ARGV[17]) then return {"queue_full"} end

local id = ARGV[1]
local seq, priority = unpack(redis.call("HMGET", KEYS[1], "seq", "priority"))
if not (seq and priority and are_whole(KEYS[1], "seq", "priority", "revision", "fence", "attempt", "losses")) then
  return damaged()
end
for _, index in ipairs({ KEYS[2], KEYS[3], KEYS[6] .. state }) do
  if not fits(index, "zset") then return damaged() end
end
if KEYS[7] ~= "" and not can_be_published(KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]) then return damaged() end
if KEYS[16] ~= "" then
  if not fits(KEYS[17], "zset") then return damaged() end
  for _, counter in ipairs({ KEYS[11], KEYS[18] }) do
    if not is_whole(redis.call("GET", counter) or "0") then return damaged() end
  end
end

redis.call("HSET", KEYS[1], "state", ARGV[2], "token", ARGV[6])
redis.call("HDEL", KEYS[1], "waiting_for")
if ARGV[2] ~= "starting" and ARGV[2] ~= "running" then redis.call("HDEL", KEYS[1], "wish") end
for i = 20, #ARGV, 2 do redis.call("HSET", KEYS[1], ARGV[i], ARGV[i + 1]) end
if ARGV[8] == "1" then redis.call("HINCRBY", KEYS[1], "fence", 1) end
if ARGV[9] == "1" and redis.call("HDEL", KEYS[1], "kept") == 0 then redis.call("HINCRBY", KEYS[1], "attempt", 1) end
if ARGV[16] == "loss" then redis.call("HINCRBY", KEYS[1], "losses", 1) end
if ARGV[16] == "kept" then redis.call("HSET", KEYS[1], "kept", 1) end
redis.call("ZREM", KEYS[6] .. state, id)
redis.call("ZADD", KEYS[3], seq, id)
if ARGV[2] == "queued" then
  redis.call("ZADD", KEYS[2], seq - priority * 1099511627776, id)
else
  redis.call("ZREM", KEYS[2], id)
end
if ARGV[10] == "1" then
  redis.pcall("SREM", KEYS[4], id)
  redis.pcall("SADD", KEYS[13], id)
  for i = 14, 15 do
    if KEYS[i] ~= "" then redis.pcall("SREM", KEYS[i], id) end
  end
end
if ARGV[14] ~= "" then
  for _, epoch in ipairs(redis.pcall("HKEYS", KEYS[12])) do
    if (tonumber(epoch) or math.huge) > tonumber(ARGV[14]) then redis.call("HDEL", KEYS[12], epoch) end
  end
end
if KEYS[7] ~= "" then
  publish(ARGV[11], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11])
  redis.call("HSET", KEYS[1], "model_id", ARGV[11])
end
if KEYS[16] ~= "" then
  local version = redis.call("INCR", KEYS[18])
  redis.call("SET", KEYS[16], (string.gsub(ARGV[19], '"version":0', '"version":' .. version, 1)))
  redis.call("ZADD", KEYS[17], redis.call("INCR", KEYS[11]), ARGV[18])
  redis.pcall("HDEL", KEYS[19], ARGV[18])
end
tell(KEYS[5], "state", ARGV[5], ARGV[7])
local revision = redis.call("HINCRBY", KEYS[1], "revision", 1)
redis.call("PUBLISH", ARGV[15], id)
return {"ok", redis.call("HGET", KEYS[1], "fence"), revision}
