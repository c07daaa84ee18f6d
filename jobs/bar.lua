-- Keep a dispatch from ever claiming devices on its host, if it has not claimed yet. Needs nothing of the host.
--
-- KEYS  1 fences, a hash: job UID -> "<highest fence that ever claimed here> <unix ms>"
-- ARGV  1 job UID   2 the dispatch's fence
-- Answer  1 it has not claimed and never will, also when asked again; 0 it has, or a newer one has
--
-- Key model: gpuworker/claims/acquire.lua, which notes each claim here before anything starts, and refuses a fence that is
-- older than the one noted. What is noted here is "<fence + 1> barred <unix ms>": the job's next dispatch has that fence
-- or a higher one. Believe the answer only where this Redis has lost nothing since the dispatch was made.
local now = redis.call("TIME")
local fence = tonumber(ARGV[2])
local seen = redis.call("HGET", KEYS[1], ARGV[1])
local highest = seen and tonumber(string.match(seen, "^(%d+)"))
if highest == fence + 1 and string.match(seen, " barred ") then
    return 1
end
if highest and highest >= fence then
    return 0
end
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call("HSET", KEYS[1], ARGV[1], string.format("%d barred %d", fence + 1, now_ms))
return 1
