-- Checkout and checkin in turn: what was granted is what is checked in.
--
-- wrk does not say on which connection it is about to send, and need not: each
-- connection waits for its answer, so a request after a grant is a checkin of the
-- oldest token that is still held. Environment: LICRAFT_TOKEN (client token, may be
-- empty), LICRAFT_FEATURE.

local held, first, last = {}, 1, 0
granted, released, refused = 0, 0, 0

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

local checkout, checkin_head

function init(args)
  local token = os.getenv("LICRAFT_TOKEN") or ""
  local headers = { ["Content-Type"] = "application/json" }
  if token ~= "" then headers["Authorization"] = "Bearer " .. token end
  local feature = os.getenv("LICRAFT_FEATURE") or "cad"
  checkout = wrk.format("POST", "/v1/authorizations", headers,
    '{"feature":"' .. feature .. '","client":{"id":"wrk-1","user":"ann","host":"ws12"}}')
  checkin_head = "POST /v1/checkins HTTP/1.1\r\nHost: " .. wrk.host
    .. "\r\nContent-Type: application/json\r\n"
  if token ~= "" then checkin_head = checkin_head .. "Authorization: Bearer " .. token .. "\r\n" end
end

function request()
  if first > last then return checkout end
  local body = held[first]
  held[first] = nil
  first = first + 1
  return checkin_head .. "Content-Length: " .. #body .. "\r\n\r\n" .. body
end

function response(status, headers, body)
  if status == 201 then
    granted = granted + 1
    last = last + 1
    held[last] = '{"tokens":["' .. string.match(body, '"token":"([^"]+)"') .. '"]}'
  elseif status == 200 then
    released = released + 1
  else
    refused = refused + 1
  end
end

function done(summary, latency, requests)
  local sums = { granted = 0, released = 0, refused = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(sums) do sums[name] = sums[name] + thread:get(name) end
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"begun":%d,"done":%d,"refused":%d,"errors":%d,"seconds":%.6f,"requests":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n',
    sums.granted, sums.released, sums.refused,
    errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, summary.requests,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
