-- Take devices for one dispatch of one attempt: all that it asks for, or none.
--
-- KEYS  1 claims, a hash: device UUID -> "<attempt key> <fence> <unix ms of the last renewal>"
--       2 fences, a hash: job UID -> "<highest fence that ever claimed here> <unix ms>"; the control plane may note one
--         that is a step higher, with a word between the two, to keep an older dispatch from claiming (jobs/bar.lua)
-- ARGV  1 attempt key   2 job UID   3 fence   4 how many devices   5... allowed device UUIDs, best first
-- Answer  {"ok", uuid...}        taken; asked again by the same attempt key it is the same answer
--         {"stale", fence}       a newer dispatch of this job has been here
--         {"busy", uuid, key...} too few are free: each taken device with the attempt key that holds it
--
-- Key model: one field for each claimed device, so that a device has at most one holder. Whoever holds a device is in its
-- value; nothing here expires, claims end by release.lua or by renew.lua, on the host's evidence. The database issues the
-- fences and this only compares them: a flushed Redis starts over without letting an older dispatch win against a newer
-- one that has claimed since. A fence matters for as long as its spec lives (a minute); what is older than an hour is
-- swept out a few at a time, so that the hash stays small.
local now = redis.call("TIME")
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local claims, fences = KEYS[1], KEYS[2]
local key, job, fence, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local seen = redis.call("HGET", fences, job)
if seen then
    local highest = tonumber(string.match(seen, "^(%d+)"))
    if highest and highest > fence then
        return { "stale", tostring(highest) }
    end
end

local taken, free, busy = {}, {}, { "busy" }
for i = 5, #ARGV do
    local uuid = ARGV[i]
    local holder = redis.call("HGET", claims, uuid)
    if not holder then
        free[#free + 1] = uuid
    elseif string.match(holder, "^(%S+)") == key then
        taken[#taken + 1] = uuid
    else
        busy[#busy + 1] = uuid
        busy[#busy + 1] = string.match(holder, "^(%S+)") or holder
    end
end
for _, uuid in ipairs(free) do
    if #taken < count then
        taken[#taken + 1] = uuid
    end
end
if #taken < count then
    return busy
end

local answer = { "ok" }
for i = 1, count do
    redis.call("HSET", claims, taken[i], key .. " " .. ARGV[3] .. " " .. now_ms)
    answer[#answer + 1] = taken[i]
end
redis.call("HSET", fences, job, ARGV[3] .. " " .. now_ms)

local some = redis.call("HRANDFIELD", fences, 4, "WITHVALUES")
for i = 1, #some, 2 do
    local at_ms = tonumber(string.match(some[i + 1], "(%d+)$"))
    if not at_ms or at_ms < now_ms - 3600000 then
        redis.call("HDEL", fences, some[i])
    end
end
return answer
