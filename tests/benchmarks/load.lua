-- For wrk. Arguments: none, to GET the address; or a content type and a file with a body on every line, to POST them in
-- turn. Ends with a line of JSON; times in microseconds.
local requests = {}
local place = 0

function init(arguments)
   if #arguments == 0 then
      requests[1] = wrk.format("GET")
      return
   end
   for body in io.lines(arguments[2]) do
      requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = arguments[1] }, body)
   end
end

function request()
   place = place % #requests + 1
   return requests[place]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"duration": %d, "requests": %d, "refused": %d, "broken": %d, "p50": %d, "p99": %d}\n',
      summary.duration, summary.requests, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50), latency:percentile(99)))
end
