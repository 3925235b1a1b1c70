//! The configuration: typed, and layered. Built-in defaults, then the TOML file, then the environment
//! (`STEADFAST_SECTION_KEY`), then flags; the later one wins. A key that is not known is an error.

mod check;
mod layers;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use layers::{ConfigError, Effective, Origin, Setting, Sources};
pub use values::{ByteSize, Span, ValueError};

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

section! {
    /// The whole configuration. Defaults fit a single node on a small machine.
    Config {
        /// Where everything is kept, unless a directory of its own is given.
        data_dir: PathBuf = PathBuf::from("steadfast-data"),
        /// Listeners, connections and calls.
        server: Server = Server::default(),
        /// When writes are answered.
        writes: Writes = Writes::default(),
        /// What is accepted.
        limits: Limits = Limits::default(),
        /// The journal.
        journal: Journal = Journal::default(),
        /// Snapshots.
        snapshots: Snapshots = Snapshots::default(),
        /// The store.
        store: Store = Store::default(),
        /// Caches above the store.
        cache: Cache = Cache::default(),
        /// The memory of request ids.
        requests: Requests = Requests::default(),
        /// The applier.
        applier: Applier = Applier::default(),
        /// What operators and incidents leave behind.
        control: Control = Control::default(),
        /// The breaker around the store.
        breaker: Breaker = Breaker::default(),
        /// What is logged.
        log: Log = Log::default(),
    }
}

section! {
    /// Listeners, connections and calls.
    Server {
        /// Where services call.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 50051)),
        /// Where operators and monitoring call.
        operations_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 50052)),
        /// Whether operators may inject faults into the store, for a game day.
        fault_injection: bool = false,
        /// Whether the operations listener may be reached from other machines without a token.
        insecure_operations: bool = false,
        /// Who may call the operations listener: a file of lines `name:token`; empty: whoever reaches it.
        operations_tokens: PathBuf = PathBuf::new(),
        /// Single-threaded runtimes that serve data connections; 0: one for each core.
        runtimes: u32 = 0,
        /// The largest message.
        max_message: ByteSize = ByteSize(4 << 20),
        /// All headers of a call together.
        max_headers: ByteSize = ByteSize(16 << 10),
        /// Connections at once; a further one is told so and closed.
        max_connections: u32 = 10_000,
        /// Calls at once on a connection.
        max_streams: u32 = 256,
        /// Calls at once on the whole node; a further one is answered OVERLOADED.
        max_in_flight: u32 = 20_000,
        /// How often a silent connection is pinged.
        keepalive_interval: Span = seconds(30),
        /// How long a ping may stay unanswered.
        keepalive_timeout: Span = seconds(10),
        /// How long a new connection may stay silent.
        handshake_timeout: Span = seconds(10),
        /// How long a connection may be without a call.
        idle_timeout: Span = seconds(15 * 60),
        /// After this a connection is asked to go away, so that clients spread anew.
        max_age: Span = seconds(60 * 60),
        /// How long the calls of a connection that was asked to go away may still take.
        age_grace: Span = seconds(60),
        /// How long results may wait for a client that does not read.
        unread_timeout: Span = seconds(30),
        /// The deadline of a call that has none.
        default_deadline: Span = seconds(60),
        /// How long calls in flight may take when the server stops.
        drain_timeout: Span = seconds(20),
        /// HTTP/2 window of one call.
        stream_window: ByteSize = ByteSize(512 << 10),
        /// HTTP/2 window of one connection.
        connection_window: ByteSize = ByteSize(2 << 20),
        /// Bytes that one call may have waiting to be sent.
        send_buffer: ByteSize = ByteSize(256 << 10),
    }
}

section! {
    /// When writes are answered.
    Writes {
        /// A write that is not applied by then is answered DEFERRED.
        reply_after: Span = millis(250),
        /// A set that repeats the stored value refreshes its time only when it is so much newer.
        refresh_after: Span = seconds(10 * 60),
        /// How long a write may wait for a load that could spare the journal.
        load_within: Span = millis(10),
    }
}

section! {
    /// What is accepted. What a profile can hold is a constant of the format.
    Limits {
        /// Characters of a site's name.
        site_chars: u32 = 64,
        /// Bytes of a user's id.
        user_bytes: u32 = 256,
        /// Characters of an attribute's name.
        name_chars: u32 = 50,
        /// Characters of a string.
        string_chars: u32 = 200,
        /// Changes of one write.
        changes_per_write: u32 = 100,
        /// Attributes of one site.
        attributes_per_site: u32 = 100,
        /// Sites of this node.
        sites: u32 = 100_000,
    }
}

section! {
    /// The journal.
    Journal {
        /// Where it is; by default `journal` under `data_dir`.
        dir: PathBuf = PathBuf::new(),
        /// Size of one segment file.
        segment: ByteSize = ByteSize(64 << 20),
        /// The most that is written with one fsync.
        batch: ByteSize = ByteSize(1 << 20),
        /// Entries that may wait for their fsync.
        queue_entries: u32 = 65_536,
        /// Bytes that may wait for their fsync.
        queue: ByteSize = ByteSize(64 << 20),
        /// Bytes of the whole journal.
        total_quota: ByteSize = ByteSize(8 << 30),
        /// Bytes of one site's entries.
        site_quota: ByteSize = ByteSize(2 << 30),
    }
}

section! {
    /// Snapshots: with the journal after them, the truth.
    Snapshots {
        /// Where they are; by default `snapshots` under `data_dir`.
        dir: PathBuf = PathBuf::new(),
        /// One is taken when the journal since the last one exceeds this, the size of the data and that of what
        /// waits, or half of its total quota.
        journal_bytes: ByteSize = ByteSize(256 << 20),
        /// The share of time, in percent, that a snapshot works; the rest it rests, for the sake of requests.
        pace: u32 = 50,
    }
}

section! {
    /// The store.
    Store {
        /// Where it is; by default `store` under `data_dir`.
        dir: PathBuf = PathBuf::new(),
        /// The store's own cache.
        cache_capacity: ByteSize = ByteSize(256 << 20),
        /// Memory of the attribute index; attributes that do not fit are not indexed.
        index_capacity: ByteSize = ByteSize(512 << 20),
        /// Threads that read profiles.
        get_threads: u32 = 4,
        /// Threads that read for queries and exports.
        query_threads: u32 = 2,
        /// Threads that read for the applier.
        apply_threads: u32 = 2,
        /// Calls that may wait for one of these pools.
        pool_queue: u32 = 4096,
        /// How often it is flushed and the note of how far it has come is written: what the start after a kill
        /// replays.
        checkpoint_every: Span = seconds(1),
    }
}

section! {
    /// Caches above the store.
    Cache {
        /// Memory of cached profiles.
        profile_capacity: ByteSize = ByteSize(128 << 20),
    }
}

section! {
    /// The memory of request ids, which makes retries safe.
    Requests {
        /// How long an id is remembered after its write was applied.
        window: Span = seconds(10 * 60),
        /// Ids remembered at once.
        capacity: u32 = 1_000_000,
    }
}

section! {
    /// The applier.
    Applier {
        /// Commits in the store's hands at once.
        outstanding: u32 = 64,
        /// Entries of one commit.
        commit_entries: u32 = 256,
    }
}

section! {
    /// What operators and incidents leave behind.
    Control {
        /// Where it is; by default `control` under `data_dir`. Not under the store's directory.
        dir: PathBuf = PathBuf::new(),
        /// Whether to start with all writes deferred, until an operator releases them.
        start_held: bool = false,
    }
}

section! {
    /// The breaker around the store. Recovery and the evidence for partial slowness have no settings.
    Breaker {
        /// A call of the store of this age is slow.
        slow_after: Span = millis(250),
        /// A call of this age, while none ends, opens the breaker at once.
        stall_after: Span = millis(750),
        /// The same as `slow_after` for queries and exports.
        query_slow_after: Span = seconds(1),
        /// The same as `stall_after` for queries and exports.
        query_stall_after: Span = seconds(3),
        /// How long the breaker stays open the first time; doubles each time in a row.
        open_first: Span = seconds(1),
        /// How long it stays open at most.
        open_longest: Span = seconds(30),
        /// Fast probes after which load is let back in.
        probes: u32 = 5,
        /// Nothing is applied while more than this is in the store and not flushed.
        unflushed_limit: ByteSize = ByteSize(256 << 20),
    }
}

section! {
    /// What is logged, to standard error.
    Log {
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,steadfast::journal=debug`.
        level: String = "info".to_owned(),
        /// Whether lines are coloured: `auto`, `always` or `never`.
        color: Color = Color::Auto,
    }
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

const fn seconds(n: u64) -> Span {
    Span(std::time::Duration::from_secs(n))
}

const fn millis(n: u64) -> Span {
    Span(std::time::Duration::from_millis(n))
}

impl Config {
    /// Fills in the directories that were left to `data_dir`.
    fn resolve(&mut self) {
        for (dir, name) in [
            (&mut self.journal.dir, "journal"),
            (&mut self.snapshots.dir, "snapshots"),
            (&mut self.store.dir, "store"),
            (&mut self.control.dir, "control"),
        ] {
            if dir.as_os_str().is_empty() {
                *dir = self.data_dir.join(name);
            }
        }
    }

    /// The defaults with everything under `data_dir`, listening on free ports of the loopback address.
    pub fn ephemeral(data_dir: impl Into<PathBuf>) -> Self {
        let mut config = Self { data_dir: data_dir.into(), ..Self::default() };
        config.server.listen.set_port(0);
        config.server.operations_listen.set_port(0);
        config.resolve();
        config
    }

    /// How many runtimes serve data connections.
    pub fn data_runtimes(&self) -> usize {
        match self.server.runtimes {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n as usize,
        }
    }
}
