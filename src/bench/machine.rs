//! The machine, and what processes use of it, from `/proc`.

use std::fs;
use std::time::Duration;

use serde::Serialize;

/// The machine that figures belong to.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Cores that may be used.
    pub cores: usize,
    /// Their name.
    pub cpu: String,
    /// Memory in bytes.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// This one. What cannot be found out is left empty.
    pub fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let named = |line: &str| {
            line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned())
        };
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: cpus.lines().find_map(named).unwrap_or_default(),
            memory: kilobytes(&read("/proc/meminfo"), "MemTotal").unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let memory = self.memory as f64 / f64::from(1 << 30);
        format!("{} core(s), {}, {memory:.1} GiB, Linux {}", self.cores, self.cpu, self.kernel)
    }
}

/// How many tasks ran or wanted to, on average over the last 1, 5 and 15 minutes; empty where it is not told.
pub fn load_average() -> String {
    let told = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    told.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Memory now, in bytes.
    pub resident: u64,
    /// The most memory so far, in bytes.
    pub peak: u64,
    /// CPU time.
    pub cpu: Duration,
}

/// This process.
pub fn own_pid() -> u32 {
    std::process::id()
}

impl Usage {
    /// What process `pid` uses; `None` if there is no such process or it is not ours to look at.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            resident: kilobytes(&status, "VmRSS")?,
            peak: kilobytes(&status, "VmHWM")?,
            cpu: cpu_time(&stat)?,
        })
    }

    /// The memory now, and the CPU time since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(before.cpu), ..self }
    }
}

/// The bytes of a line like `VmRSS:    1234 kB`.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// User and system time of `/proc/PID/stat`. Its second field is a name that may hold spaces and parentheses.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_secs_f64((user + system) as f64 / per_second as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of(own_pid()).unwrap();
        assert!(usage.resident > 1 << 20 && usage.peak >= usage.resident, "{usage:?}");
        assert!(Machine::this().memory > 1 << 20);
        assert_eq!(load_average().split(' ').filter_map(|load| load.parse::<f64>().ok()).count(), 3);
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 100 1 1";
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(cpu_time(stat), Some(Duration::from_secs_f64(200.0 / ticks as f64)));
        assert_eq!(cpu_time("7 (x"), None);
        assert_eq!(cpu_time(""), None);
    }

    #[test]
    fn lines_of_kilobytes_are_read() {
        assert_eq!(kilobytes("VmPeak: 9 kB\nVmRSS:\t   12 kB\n", "VmRSS"), Some(12 * 1024));
        assert_eq!(kilobytes("VmRSS: x kB", "VmRSS"), None);
    }
}
