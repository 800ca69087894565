-- Removes a published model that no unended job begins or predicts with; aliases that pointed to it point to nothing.
-- KEYS: 1 model (hash)  2 models (zset)  3 model versions (zset)  4 jobs of the model (set)  5 aliases of its name (hash)
-- ARGV: 1 id  2 prefix of jobs  3 prefix of histories of aliases  4 now  5 most entries of a history
--   6 "1" to keep one that an alias points to  7 channel of changes
-- Answers "ok" | "missing" | "in_use" | "aliased"
if redis.call("HEXISTS", KEYS[1], "version") == 0 then return "missing" end
if is_used(KEYS[4], ARGV[2]) then return "in_use" end
local aliases = {}
if fits(KEYS[5], "hash") then
  local found = redis.call("HGETALL", KEYS[5])
  for i = 1, #found, 2 do
    if found[i + 1] == ARGV[1] then table.insert(aliases, found[i]) end
  end
end
if ARGV[6] == "1" and #aliases > 0 then return "aliased" end
redis.call("UNLINK", KEYS[1])
redis.call("DEL", KEYS[4])
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("ZREM", KEYS[3], ARGV[1])
for _, alias in ipairs(aliases) do point(KEYS[5], ARGV[3], alias, "", "", ARGV[4], tonumber(ARGV[5])) end
redis.call("PUBLISH", ARGV[7], ARGV[1])
return "ok"
