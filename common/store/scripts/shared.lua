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
