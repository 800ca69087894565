-- What scripts share; it stands before each of them.
-- A script that fails halfway leaves what it has written, so what may be damaged is looked at before the first write.
-- What stands beside a record (events, metrics, sets of users) does not stop its job: it is written with `pcall`.

local function fits(key, kind)
  local found = redis.call("TYPE", key).ok
  return found == "none" or found == kind
end

-- Whether HINCRBY and INCR take a value: a whole number as Redis writes it, with room to grow.
local function is_whole(value)
  return value == "0" or (#value < 16 and string.find(value, "^%-?[1-9]%d*$") ~= nil)
end

-- Whether the fields of a job are whole numbers; a field that is not there yet counts as 0.
local function are_whole(key, ...)
  for _, value in ipairs(redis.call("HMGET", key, ...)) do
    if value and not is_whole(value) then return false end
  end
  return true
end

local function damaged() return redis.error_reply("ERR the record is damaged") end

local function tell(events, kind, now, data)
  redis.pcall("XADD", events, "MAXLEN", "~", 2000, "*", "kind", kind, "at", now, "data", data)
end

-- Whether there is a job among those of a set: what else was put there uses nothing.
local function is_used(jobs, prefix)
  if not fits(jobs, "set") then return false end
  for _, id in ipairs(redis.call("SMEMBERS", jobs)) do
    if redis.call("EXISTS", prefix .. id) == 1 then return true end
  end
  return false
end

-- Whether a model can be made visible.
local function can_be_published(model, models, versions, counter, sequence)
  if not (fits(model, "hash") and fits(models, "zset") and fits(versions, "zset")) then return false end
  for _, number in ipairs({ counter, sequence }) do
    if not is_whole(redis.call("GET", number) or "0") then return false end
  end
  return true
end

-- Makes a model visible as the next version of its name.
local function publish(id, model, models, versions, counter, sequence)
  local version = redis.call("INCR", counter)
  redis.call("HSET", model, "version", version)
  redis.call("PERSIST", model)
  redis.call("ZADD", models, redis.call("INCR", sequence), id)
  redis.call("ZADD", versions, version, id)
end

-- Lets an alias point to a model, or to none (id ""), and notes it among the newest of its history.
local function point(aliases, histories, alias, id, version, now, most)
  redis.call("HSET", aliases, alias, id)
  local found = id == "" and '"model_id":null,"version":null' or '"model_id":"' .. id .. '","version":' .. version
  redis.pcall("LPUSH", histories .. alias, "{" .. found .. ',"changed_at":"' .. now .. '"}')
  redis.pcall("LTRIM", histories .. alias, 0, most - 1)
end
