//! Every bound that is not an option, and the ranges of those that are.
//!
//! Derived where they depend on each other, and checked by `const` asserts below, so that a change
//! of one that breaks another does not compile. Sizes are bytes unless a name says otherwise.

/// Networks in one address list.
pub const ADDRESS_NETWORKS_MAX: usize = 256;

/// `--bind` given more often than this is a mistake; also bounds accepts armed by a loop.
pub const LISTENERS_MAX: usize = 64;

/// Event loops of one server: the exchange's worker end numbers no more.
pub const EVENT_LOOPS_MAX: usize = 64;

/// Worker processes of one pool.
pub const WORKERS_MAX: usize = 512;

/// Ceiling of `--max-crashes`; by taste: beyond it waiting for an operator is as good.
pub const CRASHES_MAX: usize = 1_000_000;

/// Threads (seats) of one worker.
pub const THREADS_MAX: usize = 512;

/// Seats of one pool: workers times threads. The exchange's seat table has room for these, and a
/// replacement of a dead worker takes seats apart until every loop acknowledged the death.
pub const SEATS_MAX: usize = 1024;

/// Largest uwsgi packet the protocol can state: its length field is 16 bits (uwsgi wire format).
pub const UWSGI_PACKET_MAX: usize = 65_535;

/// Ceiling of `--limit-request-head`: what one request record must be able to hold in CGI form.
pub const REQUEST_HEAD_BYTES_MAX: usize = 65_536;

/// Ceiling of `--limit-request-fields`.
pub const REQUEST_FIELDS_MAX: usize = 1_000;

/// `--warm-up` given more often than this is a load test, not a warm-up.
pub const WARM_UPS_MAX: usize = 64;

/// Longest timeout an option takes: a year. Keeps sums of monotonic nanoseconds far from wrapping.
pub const TIMEOUT_SECONDS_MAX: u64 = 366 * 24 * 60 * 60;

/// Ceiling of `--max-inflight`: every request in flight has a slot of two rings in each pool
/// segment.
pub const INFLIGHT_MAX: usize = 16_384;

/// Ceiling of `--max-connections`: direct descriptors of all loops together.
pub const CONNECTIONS_MAX: usize = 1_048_576;

/// Largest value an access record keeps of one variable; longer ones are cut there.
pub const ACCESS_VALUE_BYTES_MAX: usize = 4_096;

/// Reports (access records, incidents) in flight from one loop to the supervisor. Full: records are
/// dropped and counted, the loop never waits.
pub const REPORTS_QUEUED_MAX: usize = 4_096;

/// Commands in flight from the supervisor to one loop.
pub const COMMANDS_QUEUED_MAX: usize = 256;

// A head of the largest legal size is also what a uwsgi packet may hold.
const _: () = assert!(REQUEST_HEAD_BYTES_MAX > UWSGI_PACKET_MAX);
// One worker at least fits beside the largest thread count, and the products fit a 16-bit seat
// number.
const _: () = assert!(THREADS_MAX <= SEATS_MAX && SEATS_MAX <= u16::MAX as usize);
const _: () = assert!(WORKERS_MAX <= SEATS_MAX);
// The longest timeout is far below where monotonic nanoseconds in 64 bits wrap.
const _: () = assert!(TIMEOUT_SECONDS_MAX < u64::MAX / 1_000_000_000 / 4);
