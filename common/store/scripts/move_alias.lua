-- Lets an alias of a name point to a published model of that name.
-- KEYS: 1 aliases of the name (hash)  2 model versions (zset)  3 model (hash)
-- ARGV: 1 alias  2 model id  3 prefix of histories  4 now  5 most entries of a history  6 most aliases of a name
-- Answers "ok" | "no_model" | "other_name" | "too_many"
if redis.call("HEXISTS", KEYS[3], "version") == 0 then return "no_model" end
local version = redis.call("ZSCORE", KEYS[2], ARGV[2])
if not version then return "other_name" end
if not fits(KEYS[1], "hash") then return damaged() end
local before = redis.call("HGET", KEYS[1], ARGV[1])
if before == ARGV[2] then return "ok" end
if not before and redis.call("HLEN", KEYS[1]) >= tonumber(ARGV[6]) then
  local found, removed = redis.call("HGETALL", KEYS[1]), nil
  for i = 1, #found, 2 do
    if found[i + 1] == "" then removed = found[i] end
  end
  if not removed then return "too_many" end
  redis.call("HDEL", KEYS[1], removed) -- its history makes room
  redis.call("DEL", ARGV[3] .. removed)
end
point(KEYS[1], ARGV[3], ARGV[1], ARGV[2], version, ARGV[4], tonumber(ARGV[5]))
return "ok"
