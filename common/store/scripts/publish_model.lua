-- Makes a model visible that was written before, or answers with the one that the same Idempotency-Key created.
-- KEYS: 1 model (hash)  2 models (zset)  3 model versions (zset)  4 model counter  5 sequence (counter)
--   6 idempotency (hash, or "")
-- ARGV: 1 id  2 digest
-- Answers {"ok", id} | {"replayed", id} | {"reused"} | {"missing"}
if redis.call("HEXISTS", KEYS[1], "version") == 1 then -- this call has come before
  redis.call("PERSIST", KEYS[1])
  return {"ok", ARGV[1]}
end
if KEYS[6] ~= "" then
  local digest = redis.call("HGET", KEYS[6], "digest")
  local id = redis.call("HGET", KEYS[6], "id")
  -- what the key created may have been deleted since: then the key is free again
  if digest and redis.call("EXISTS", string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[1]) .. id) == 1 then
    if digest ~= ARGV[2] then return {"reused"} end
    return {"replayed", id}
  end
end
if redis.call("HEXISTS", KEYS[1], "record") == 0 then return {"missing"} end
if not can_be_published(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]) then return damaged() end
publish(ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
if KEYS[6] ~= "" then
  redis.call("HSET", KEYS[6], "digest", ARGV[2], "id", ARGV[1])
  redis.call("EXPIRE", KEYS[6], 86400)
end
return {"ok", ARGV[1]}
