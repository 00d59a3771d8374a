-- Makes wrk print what it measured as one line of JSON, p99.9 included.
--
-- Place: loaded by load.py into every wrk run. It defines no request() and no response(), so wrk keeps its
-- static request and its short path. BENCH_POST_BYTES in the environment makes the request a POST of that size.

local post_bytes = tonumber(os.getenv("BENCH_POST_BYTES") or "0")
if post_bytes > 0 then
   wrk.method = "POST"
   wrk.body = string.rep("0123456789abcdef", post_bytes / 16)
   wrk.headers["Content-Type"] = "application/octet-stream"
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      'JSON {"duration_us": %d, "requests": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "p999_us": %d, '
      .. '"max_us": %d, "errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.duration, summary.requests, summary.bytes,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max,
      e.connect, e.read, e.write, e.status, e.timeout))
end
