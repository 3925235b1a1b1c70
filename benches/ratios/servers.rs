//! The servers that are measured, as child processes that end with this one.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use steadfast::bench::machine::Usage;
use tempfile::TempDir;

use crate::scenarios::Against;

const STEADFAST: &str = env!("CARGO_BIN_EXE_steadfast");
/// A server that does not listen after this has failed.
const START: Duration = Duration::from_mins(1);
/// A server that is not at rest after this never will be.
const REST: Duration = Duration::from_mins(5);
const GLANCE: Duration = Duration::from_millis(100);
/// Busy for less than this share of a core: at rest.
const AT_REST: f64 = 0.1;

/// A server process; killed when dropped.
#[derive(Debug)]
pub struct Server {
    pub addr: String,
    child: Child,
    name: &'static str,
}

/// All of them, and the directory that they write to.
#[derive(Debug)]
pub struct Servers {
    pub steadfast: Server,
    bare: Server,
    log: Server,
    etcd: Option<Server>,
    redis: Option<Server>,
    _dir: TempDir,
}

impl Servers {
    /// Starts the server, the yardsticks, and the peers that are there if they are wanted.
    pub fn start(peers: bool) -> Result<Self, Box<dyn Error>> {
        // In the build directory: the temporary one may be in memory, where a sync costs nothing.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let at = |name: &str| dir.path().join(name);
        let steadfast = steadfast(&at("steadfast"))?;
        let bare = yardstick(["--yardstick", "bare"], "bare tonic")?;
        let log_file = at("log");
        let log_args = [OsStr::new("--yardstick"), "log".as_ref(), "--log".as_ref(), log_file.as_ref()];
        let log = yardstick(log_args, "bare log")?;
        let (mut etcd, mut redis) = (None, None);
        if peers {
            etcd = peer("etcd", |port, extra| etcd_command(&at("etcd"), port, extra))?;
            std::fs::create_dir(at("redis"))?;
            redis = peer("redis-server", |port, _| redis_command(&at("redis"), port))?;
        }
        Ok(Self { steadfast, bare, log, etcd, redis, _dir: dir })
    }

    /// The one to compare with, if it runs.
    pub fn of(&self, against: Against) -> Option<&Server> {
        match against {
            Against::Bare => Some(&self.bare),
            Against::Log => Some(&self.log),
            Against::Etcd => self.etcd.as_ref(),
            Against::Redis => self.redis.as_ref(),
        }
    }

    /// Waits until no server is busy: what one still has to do must not slow another down.
    pub fn settle(&self) -> Result<(), Box<dyn Error>> {
        let all = [
            Some(&self.steadfast),
            Some(&self.bare),
            Some(&self.log),
            self.etcd.as_ref(),
            self.redis.as_ref(),
        ];
        let until = Instant::now() + REST;
        for server in all.into_iter().flatten() {
            while server.busy()? > AT_REST {
                if Instant::now() > until {
                    return Err(format!("{} does not come to rest", server.name).into());
                }
            }
        }
        Ok(())
    }
}

impl Server {
    fn spawn(name: &'static str, command: &mut Command, addr: String) -> Result<Self, Box<dyn Error>> {
        let child = command.spawn().map_err(|error| format!("starting {name}: {error}"))?;
        Ok(Self { addr, child, name })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its memory, in words.
    pub fn memory(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        match Usage::of(self.pid()) {
            Some(usage) => {
                let (now, peak) = (mib(usage.resident), mib(usage.peak));
                format!("{}: {now} MiB resident, {peak} MiB at most", self.name)
            }
            None => format!("{}: not running", self.name),
        }
    }

    /// The share of a core that it keeps busy.
    fn busy(&self) -> Result<f64, Box<dyn Error>> {
        let usage = || Usage::of(self.pid()).ok_or_else(|| format!("{} has ended", self.name));
        let before = usage()?;
        thread::sleep(GLANCE);
        Ok(usage()?.since(before).cpu.as_secs_f64() / GLANCE.as_secs_f64())
    }

    /// Waits until it listens.
    fn listening(mut self) -> Result<Self, Box<dyn Error>> {
        let until = Instant::now() + START;
        while TcpStream::connect(&self.addr).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended at once: {status}", self.name).into());
            }
            if Instant::now() > until {
                return Err(format!("{} does not listen on {}", self.name, self.addr).into());
            }
            thread::sleep(GLANCE);
        }
        Ok(self)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago, for servers that cannot say which one they were given.
fn free_port() -> Result<u16, Box<dyn Error>> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn steadfast(dir: &Path) -> Result<Server, Box<dyn Error>> {
    let addr = format!("127.0.0.1:{}", free_port()?);
    let operations = format!("127.0.0.1:{}", free_port()?);
    let mut command = Command::new(STEADFAST);
    command
        .arg("serve")
        .env("STEADFAST_DATA_DIR", dir)
        .env("STEADFAST_SERVER_LISTEN", &addr)
        .env("STEADFAST_SERVER_OPERATIONS_LISTEN", operations)
        // Room for all that is written in a run: what is measured is not how it refuses.
        .env("STEADFAST_JOURNAL_TOTAL_QUOTA", "40 GiB")
        .env("STEADFAST_JOURNAL_SITE_QUOTA", "30 GiB")
        .stdout(Stdio::null());
    Server::spawn("steadfast", &mut command, addr)?.listening()
}

fn yardstick<A: AsRef<OsStr>>(
    args: impl IntoIterator<Item = A>,
    name: &'static str,
) -> Result<Server, Box<dyn Error>> {
    let mut command = Command::new(STEADFAST);
    command.arg("bench").args(args).stdout(Stdio::piped());
    let mut server = Server::spawn(name, &mut command, String::new())?;
    let output = server.child.stdout.take().ok_or("its output is piped")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let addr = line.trim().strip_prefix("listening on ").ok_or("it does not say where it listens")?;
    addr.clone_into(&mut server.addr);
    Ok(server)
}

/// A peer, if it is in PATH.
fn peer(
    name: &'static str,
    command: impl FnOnce(u16, u16) -> Command,
) -> Result<Option<Server>, Box<dyn Error>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join(name).is_file()) {
        println!("{name} is not in PATH: not compared");
        return Ok(None);
    }
    let port = free_port()?;
    let mut command = command(port, free_port()?);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Server::spawn(name, &mut command, format!("127.0.0.1:{port}"))?.listening().map(Some)
}

fn etcd_command(dir: &Path, port: u16, peer_port: u16) -> Command {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(dir)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        // Every Put keeps an old revision; without these a long run fills its quota.
        .args(["--auto-compaction-mode", "revision", "--auto-compaction-retention", "10000"])
        .args(["--quota-backend-bytes", "8589934592"]);
    command
}

fn redis_command(dir: &Path, port: u16) -> Command {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
        .arg(dir);
    command
}
