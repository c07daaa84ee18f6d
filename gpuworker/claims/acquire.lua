-- Take devices for one dispatch of one attempt: all that it asks for, or none.
--
-- KEYS  1 claims, a hash: device UUID -> its holders, with "|" between them: "<attempt key> <fence> <unix ms of the last
--         renewal>" of one that has it alone, and " <MiB>" after that of each that shares it
--       2 fences, a hash: job UID -> "<highest fence that ever claimed here> <unix ms>"; the control plane may note one
--         that is a step higher, with a word between the two, to keep an older dispatch from claiming (jobs/bar.lua)
-- ARGV  1 attempt key   2 job UID   3 fence   4 how many devices   5 MiB of each where it shares, else 0
--       6... pairs, best first: allowed device UUID, MiB that sharers may ask for there in all
-- Answer  {"ok", uuid...}        taken; asked again by the same attempt key it is the same answer
--         {"stale", fence}       a newer dispatch of this job has been here
--         {"busy", uuid, key...} too few are to be had: each taken device with the attempt keys that hold it
--
-- Key model: one field for each claimed device. It has one holder, or several that all share and fit. Nothing here
-- expires, claims end by release.lua or by renew.lua, on the host's evidence. The database issues the fences and this only
-- compares them: a flushed Redis starts over without letting an older dispatch win against a newer one that has claimed
-- since. A fence matters for as long as its spec lives (a minute); what is older than an hour is swept out a few at a
-- time, so that the hash stays small.
local now = redis.call("TIME")
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local claims, fences = KEYS[1], KEYS[2]
local key, job, fence, count, mib = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local seen = redis.call("HGET", fences, job)
if seen then
    local highest = tonumber(string.match(seen, "^(%d+)"))
    if highest and highest > fence then
        return { "stale", tostring(highest) }
    end
end

-- Whether one more may join these holders; their keys; whether this attempt is among them.
local function look(holders, room)
    local joins, asked, keys = mib > 0, mib, {}
    for holder in string.gmatch(holders, "[^|]+") do
        local other = string.match(holder, "^(%S+)") or holder
        if other == key then
            return false, keys, true
        end
        local shares = tonumber(string.match(holder, "^%S+ %d+ %d+ (%d+)$"))
        joins, asked = joins and shares ~= nil, asked + (shares or 0)
        keys[#keys + 1] = other
    end
    return joins and asked <= room, keys, false
end

local taken, open, busy = {}, {}, { "busy" }
for i = 6, #ARGV, 2 do
    local uuid = ARGV[i]
    local holders = redis.call("HGET", claims, uuid)
    local joins, keys, mine = look(holders or "", tonumber(ARGV[i + 1]))
    if mine then
        taken[#taken + 1] = uuid
    elseif not holders or joins then
        open[#open + 1] = uuid
    else
        for _, other in ipairs(keys) do
            busy[#busy + 1] = uuid
            busy[#busy + 1] = other
        end
    end
end
local had = #taken
for _, uuid in ipairs(open) do
    if #taken < count then
        taken[#taken + 1] = uuid
    end
end
if #taken < count then
    return busy
end

local answer = { "ok" }
local holder = key .. " " .. ARGV[3] .. " " .. now_ms .. (mib > 0 and " " .. ARGV[5] or "")
for i = 1, count do
    if i > had then
        local beside = redis.call("HGET", claims, taken[i])
        redis.call("HSET", claims, taken[i], beside and beside .. "|" .. holder or holder)
    end
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
